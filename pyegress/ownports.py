# SPDX-License-Identifier: MIT
"""Ports of the program's own connections, so that inputs don't report them.

A packet's process is looked for afterwards, and a connect that is refused is over before anybody looks.
"""

from __future__ import annotations

import socket
import time
from threading import Lock

KEPT_S = 60.0
"""A packet is judged seconds after it was sent, at most."""
_MOST = 256

_lock = Lock()
_used: dict[int, float] = {}


def reserve(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A free local port to send from, known as ours from now on."""
    with socket.socket(type=kind) as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
    with _lock:
        _used.pop(port, None)
        _used[port] = time.monotonic()
        if len(_used) > _MOST:
            del _used[next(iter(_used))]
    return port


def is_own(port: int | None) -> bool:
    """Whether a connection just made from that port, by nobody knows whom, is ours."""
    with _lock:
        used = _used.get(port or 0)
    return used is not None and time.monotonic() - used < KEPT_S
