# SPDX-License-Identifier: MIT
"""Earlier logs as a page to look at."""
