# SPDX-License-Identifier: MIT
"""A live view of who connects where: what is counted, the picture of it, the terminal that it is drawn on."""
