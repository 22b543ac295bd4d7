# SPDX-License-Identifier: MIT
"""Where the program begins: as `pyegress` and as `python -m pyegress`."""

from __future__ import annotations

import sys

from pyegress import interrupts

_EXIT_INTERRUPTED = 130
"""Here, as nothing else of pyegress is imported yet."""


def main() -> None:
    """Run the command line, and exit."""
    # An interrupt while modules are imported, the longest part of a start, would end in a traceback of theirs.
    interrupts.end_quietly()
    from pyegress import cli

    try:
        try:
            interrupts.raise_again()
            cli.main()
        finally:  # and so would one at the interpreter's end
            interrupts.end_quietly()
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
