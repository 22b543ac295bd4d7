# SPDX-License-Identifier: MIT
"""Another name for this process, for whoever looks at ps, top or pgrep: its comm and its arguments."""

from __future__ import annotations

from pathlib import Path

from pyegress.errors import UnsupportedError, UsageError
from pyegress.escape import display, encoded


def rename(name: str) -> None:
    """Take a name, instead of all arguments; threads that are made later have it too.

    Raises UsageError for a name that can't be, also one that is longer than arguments and environment together,
    which is the room that it has. The program file stays what it is.
    """
    raw = encoded(name)
    if not raw.strip() or b"\0" in raw:
        raise UsageError(f"-R '{display(name)}': must be a name")
    try:
        # Here, because importing it already looks for the arguments in memory.
        import setproctitle
    except ImportError:
        raise UnsupportedError("-R: needs the package setproctitle: pip install setproctitle") from None
    setproctitle.setproctitle(name)
    setproctitle.setthreadtitle(name)
    shown = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0")
    if shown != raw:
        raise UsageError(f"-R NAME: too long: there is room for {len(shown)} bytes; give a shorter one")
