# SPDX-License-Identifier: MIT
"""Pushing to Loki, or to what takes Loki's pushes."""
