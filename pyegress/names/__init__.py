# SPDX-License-Identifier: MIT
"""Which host name led to an address."""
