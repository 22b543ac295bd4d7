# SPDX-License-Identifier: MIT
"""The report for programs."""

from __future__ import annotations

import msgspec

from pyegress.doctor.examination import Examination


def encoded(examination: Examination) -> str:
    """One object, indented; its keys are those of Examination and Finding, and stay."""
    return msgspec.json.format(msgspec.json.encode(examination)).decode() + "\n"
