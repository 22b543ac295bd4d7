# SPDX-License-Identifier: MIT
"""A module of ours run in a guest, with what it writes."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import guest
from tests.traffic import traffic


def results(kernel: str, module: str, *arguments: str, **how: Any) -> bytes:
    """Boot one guest, `how` is for `guest.boot`; the module's first argument is the file to write.

    Raises Unavailable where no guest can run.
    """
    guest.check_host()
    traffic()  # built here: the guest would take minutes
    with tempfile.TemporaryDirectory(prefix="pyegress-bench-") as scratch:
        found, log = Path(scratch, "results.json"), Path(scratch, "console.log")
        command = shlex.join([sys.executable, "-m", module, str(found), *arguments])
        root = shlex.quote(str(Path(__file__).resolve().parents[1]))
        script = f"export PYTHONDONTWRITEBYTECODE=1\ncd {root} && {command}\n"
        status = guest.boot(kernel, script, log=log, **how)
        if status:
            raise guest.BootError(f"{module} exited with {status}:\n{guest.log_tail(log)}")
        return found.read_bytes()
