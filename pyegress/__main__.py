# SPDX-License-Identifier: MIT
"""Where the program begins: as `pyegress` and as `python -m pyegress`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line, and exit."""
    # An interrupt while modules are imported, the longest part of a start, would end in a traceback of theirs.
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pyegress import cli

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
