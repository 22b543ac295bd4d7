# SPDX-License-Identifier: MIT
"""What ctrl-c does while nobody watches signals. Imports next to nothing, as it is the first that is imported."""

from __future__ import annotations

import signal


def end_quietly() -> None:
    """SIGINT ends this process at once, as SIGTERM does: for while modules are imported and nothing is under way.

    Python's own handler raises KeyboardInterrupt in their midst, with a traceback. Where SIGINT is ignored it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """It raises KeyboardInterrupt again: what is under way is cleaned up."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
