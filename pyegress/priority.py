# SPDX-License-Identifier: MIT
"""How this process is weighed where others compete for the CPUs: nice(2), of the running thread and those it starts."""

from __future__ import annotations

import os

DEFAULT = -4
"""As auditd's priority_boost: of two CPUs that two senders keep busy, the reader gets one."""
LOWEST, HIGHEST = -20, 19


def take(nice: int) -> None:
    """Take that nice value; 0 leaves it, and so does a negative one where it is lower already.

    Raises PermissionError where only CAP_SYS_NICE, or another limit RLIMIT_NICE, would let it.
    """
    if nice > 0 or nice < min(0, os.getpriority(os.PRIO_PROCESS, 0)):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
