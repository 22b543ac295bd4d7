# SPDX-License-Identifier: MIT
"""Parts by themselves, without the kernel: `make bench-native`."""
