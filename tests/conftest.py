# SPDX-License-Identifier: MIT
"""Plugins of the whole test suite."""

pytest_plugins = ["tests.guestlanes"]
