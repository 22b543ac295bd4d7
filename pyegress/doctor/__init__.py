# SPDX-License-Identifier: MIT
"""`pyegress doctor`: what works here for this user, found by trying it, and what to do about the rest."""
