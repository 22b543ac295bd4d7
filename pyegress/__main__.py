# SPDX-License-Identifier: MIT
"""`python -m pyegress`."""

from pyegress.entry import main

if __name__ == "__main__":
    main()
