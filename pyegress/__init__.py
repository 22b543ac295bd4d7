# SPDX-License-Identifier: MIT
"""Audit of a Linux host's outbound connections."""

__version__ = "0.1.0"
