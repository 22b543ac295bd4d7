# SPDX-License-Identifier: MIT
"""What netfilter's logs and queues are asked for, as netlink messages of pyroute2.

Import this where it is used: pyroute2 takes a tenth of a second.
"""

from __future__ import annotations

import struct
from typing import Any

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, nla
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_QUEUE, NFNL_SUBSYS_ULOG, nfgen_msg

COPY_BYTES = 512
"""Enough for the headers of any new connection."""

# linux/netfilter/nfnetlink_log.h, nfnetlink_queue.h
_LOG_CONFIG = 1
_QUEUE_CONFIG = 2
_BIND, _UNBIND = 1, 2
_COPY_PACKET = 2
_LOG_SEQUENCE = 1
_FAIL_OPEN, _GSO, _UID_GID = 1, 4, 8
_ANSWER = struct.Struct("=IHHIIi")


class _LogConfig(nfgen_msg):  # type: ignore[misc]
    prefix = "NFULA_CFG_"
    nla_map = (
        ("NFULA_CFG_UNSPEC", "none"),
        ("NFULA_CFG_CMD", "uint8"),
        ("NFULA_CFG_MODE", "mode"),
        ("NFULA_CFG_NLBUFSIZ", "be32"),
        ("NFULA_CFG_TIMEOUT", "be32"),
        ("NFULA_CFG_QTHRESH", "be32"),
        ("NFULA_CFG_FLAGS", "be16"),
    )

    class mode(nla):  # type: ignore[misc]
        fields = (("copy_range", "!I"), ("copy_mode", "B"), ("pad", "B"))


class _QueueConfig(nfgen_msg):  # type: ignore[misc]
    prefix = "NFQA_CFG_"
    nla_map = (
        ("NFQA_CFG_UNSPEC", "none"),
        ("NFQA_CFG_CMD", "command"),
        ("NFQA_CFG_PARAMS", "params"),
        ("NFQA_CFG_QUEUE_MAXLEN", "be32"),
        ("NFQA_CFG_MASK", "be32"),
        ("NFQA_CFG_FLAGS", "be32"),
    )

    class command(nla):  # type: ignore[misc]
        fields = (("command", "B"), ("pad", "B"), ("family", "!H"))

    class params(nla):  # type: ignore[misc]
        fields = (("copy_range", "!I"), ("copy_mode", "B"))


def bind_log(group: int, sequence: int) -> bytes:
    """Log the group's packets here, each at once, with its number in the group."""
    return _encoded(
        _LogConfig(),
        NFNL_SUBSYS_ULOG << 8 | _LOG_CONFIG,
        group,
        sequence,
        ("CMD", _BIND),
        ("MODE", {"copy_range": COPY_BYTES, "copy_mode": _COPY_PACKET}),
        ("TIMEOUT", 0),
        # A group delivers a lone packet after a second otherwise, when its process may be gone.
        ("QTHRESH", 1),
        ("FLAGS", _LOG_SEQUENCE),
    )


def unbind_log(group: int) -> bytes:
    """Log no more packets here; what was logged before can still be read."""
    return _encoded(_LogConfig(), NFNL_SUBSYS_ULOG << 8 | _LOG_CONFIG, group, 0, ("CMD", _UNBIND))


def bind_queue(number: int, sequence: int, length: int, fail_open: bool) -> bytes:
    """Hand the queue's packets to us; what finds it full is dropped, or let through with `fail_open`."""
    return _queue_config(
        number,
        sequence,
        ("CMD", {"command": _BIND}),
        ("PARAMS", {"copy_range": COPY_BYTES, "copy_mode": _COPY_PACKET}),
        ("QUEUE_MAXLEN", length),
        # GSO: large packets are not cut for us, nor their checksums made.
        ("MASK", _FAIL_OPEN | _GSO | _UID_GID),
        ("FLAGS", (_FAIL_OPEN if fail_open else 0) | _GSO | _UID_GID),
    )


def limit_queue(number: int, sequence: int, length: int, fail_open: bool) -> bytes:
    """Change how many may wait, and what happens to more."""
    return _queue_config(
        number,
        sequence,
        ("QUEUE_MAXLEN", length),
        ("MASK", _FAIL_OPEN),
        ("FLAGS", _FAIL_OPEN if fail_open else 0),
    )


def answer(datagram: bytes, sequence: int) -> int | None:
    """The errno of the answer to that request, 0 for success; None if it is something else."""
    if len(datagram) < _ANSWER.size:
        return None
    _, kind, _, answered, _, error = _ANSWER.unpack_from(datagram)
    return -error if kind == NLMSG_ERROR and answered == sequence else None


def _queue_config(number: int, sequence: int, *attributes: tuple[str, Any]) -> bytes:
    return _encoded(_QueueConfig(), NFNL_SUBSYS_QUEUE << 8 | _QUEUE_CONFIG, number, sequence, *attributes)


def _encoded(
    message: nfgen_msg, kind: int, number: int, sequence: int, *attributes: tuple[str, Any]
) -> bytes:
    """A request; sequence 0: one that wants no answer."""
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST | (NLM_F_ACK if sequence else 0)
    message["header"]["sequence_number"] = sequence
    message["res_id"] = number
    message["attrs"] = [(message.prefix + name, value) for name, value in attributes]
    message.encode()
    return bytes(message.data)
