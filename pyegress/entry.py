# SPDX-License-Identifier: MIT
"""The entry point of `pyegress` and `python -m pyegress`: what an interrupt does before and after a command."""

from __future__ import annotations

import sys

from pyegress import interrupts

_EXIT_INTERRUPTED = 130
"""Here, as nothing else of pyegress is imported yet."""


def main() -> None:
    """Import the commands, and run the one that is asked for; exits."""
    interrupts.end_quietly()
    from pyegress import cli

    try:
        try:
            interrupts.raise_again()
            cli.main()
        finally:  # the interpreter's own end is no better a place for a traceback
            interrupts.end_quietly()
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
