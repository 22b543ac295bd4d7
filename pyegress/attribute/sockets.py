# SPDX-License-Identifier: MIT
"""From a packet's addresses to the sockets that can have sent it, by asking the kernel (sock_diag(7)).

TCP has one socket for a pair of addresses. UDP has not: any socket of the local port can send anywhere, so all of
them are candidates, less those that the packet's source address, interface and owner leave out.

Messages are made with `struct`: pyroute2 takes 63 us to encode a request and decode its answer, this 4 us.
"""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from pyegress.errors import UnsupportedError

UDP_LIKE = (socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE)
MAPPED = bytes(10) + b"\xff\xff"
"""What an IPv4 address has before it when written as an IPv6 one (RFC 4291, 2.5.5.2)."""
TRIES = 3

_ANY = (bytes(16), MAPPED + bytes(4))
# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_LISTEN = 10
_ALL_STATES = 0xFFFF_FFFF
_ANY_COOKIE = 0xFFFF_FFFF_FFFF_FFFF
_V6ONLY, _CGROUP_ID = 11, 21

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=IHHIIBBBBIHH16s16sIQ")
"""nlmsghdr and inet_diag_req_v2."""
_ANSWER = struct.Struct("=BBBBHH16s16sIQIIIII")
"""inet_diag_msg."""
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_ID = struct.Struct("=Q")
_BUFFER_BYTES = 65536
"""The kernel puts at most 32 KiB of a dump into one answer."""
_TIMEOUT = struct.pack("@ll", 1, 0)
"""The kernel answers before send() returns: only an answer that was lost is waited for."""
_AGAIN = (errno.EAGAIN, errno.ENOBUFS, errno.EINTR, errno.EBUSY)
"""An answer was lost, the table changed meanwhile, or an earlier dump was still running."""


class Query(NamedTuple):
    """A packet's way, as far as it was seen."""

    ip_version: int
    protocol: int
    """IP protocol number."""
    src: bytes
    dst: bytes
    """16 bytes each, IPv4 as ::ffff:a.b.c.d."""
    sport: int | None
    dport: int | None
    ifindex: int = 0
    """Outgoing interface; 0 where it is not known."""
    uid: int | None = None
    gid: int | None = None
    """What netfilter says of the socket's owner."""
    local: bool = True
    """False: the packet was forwarded, its socket is not in this network namespace."""


class Socket(NamedTuple):
    """What the kernel says of a socket."""

    inode: int
    """0: no process has it any more, as in TIME_WAIT, or not yet."""
    uid: int
    cgroup_id: int | None
    """The cgroup v2 that its maker was in; None before 5.8."""


class _Answer(NamedTuple):
    state: int
    sport: int
    dport: int
    src: bytes
    dst: bytes
    ifindex: int
    v6only: bool
    socket: Socket


class SocketTable:
    """Sockets of the network namespace that the calling thread is in when this is made. For any thread.

    Raises UnsupportedError where the kernel answers no such questions, and `find` OSError where it left one open.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._sequence = 0
        self._buffer = bytearray(_BUFFER_BYTES)
        try:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        except OSError as error:
            raise _unsupported(error) from error
        try:
            self._netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
            self._netlink.connect((0, 0))
            # Of TCP the listeners only: a host may have a million other sockets.
            self._dump(socket.AF_INET, socket.IPPROTO_TCP, 1, 1 << _LISTEN)
            self._dump(socket.AF_INET, socket.IPPROTO_UDP, 1)
        except OSError as error:
            self._netlink.close()
            raise _unsupported(error) from error

    def find(self, query: Query) -> list[Socket]:
        """The socket of a TCP packet, or all that can have sent a datagram; none where there is none any more."""
        return self._tcp(query) if query.protocol == socket.IPPROTO_TCP else self._udp(query)

    def close(self) -> None:
        """Ask no more."""
        self._netlink.close()

    def _tcp(self, query: Query) -> list[Socket]:
        # With an interface the kernel finds sockets bound to it and those bound to none.
        found = self._exact(query, query.ifindex)
        if not found and query.ifindex and (master := _master(query.ifindex)):
            found = self._exact(query, master)
        return found

    def _exact(self, query: Query, ifindex: int) -> list[Socket]:
        family, cut = (socket.AF_INET, 12) if query.ip_version == 4 else (socket.AF_INET6, 0)
        sport, dport = query.sport or 0, query.dport or 0
        answers = self._ask(
            0,
            family,
            query.protocol,
            _ALL_STATES,
            socket.htons(sport),
            socket.htons(dport),
            query.src[cut:],
            query.dst[cut:],
            ifindex,
        )
        wanted = (sport, dport, query.src, query.dst)
        # Where there is no such connection, the kernel offers a listener of the port.
        return [
            answer.socket
            for answer in answers
            if answer.state != _LISTEN and (answer.sport, answer.dport, answer.src, answer.dst) == wanted
        ]

    def _udp(self, query: Query) -> list[Socket]:
        """By a dump: an exact look-up takes one of those with SO_REUSEPORT, and none that is connected elsewhere."""
        sport = query.sport or 0
        answers = self._dump(socket.AF_INET6, query.protocol, sport)
        if query.ip_version == 4:
            answers = [answer for answer in answers if not answer.v6only and _may_be_v4(answer.src)]
            answers += self._dump(socket.AF_INET, query.protocol, sport)
        else:
            answers = [answer for answer in answers if not answer.src.startswith(MAPPED)]
        here = [answer.socket for answer in answers if _is_bound_to(answer, query)]
        if query.uid is not None:
            return [one for one in here if one.uid == query.uid] or here
        # Bound elsewhere, it still can send from here (IP_PKTINFO). That is rare, but must not put the blame for one
        # user's packet on another's process.
        users = {one.uid for one in here}
        return here + [a.socket for a in answers if here and a.socket.uid not in users]

    def _dump(self, family: int, protocol: int, sport: int, states: int = _ALL_STATES) -> list[_Answer]:
        return self._ask(_NLM_F_DUMP, family, protocol, states, socket.htons(sport), 0, b"", b"", 0)

    def _ask(self, flags: int, family: int, protocol: int, states: int, *id_: int | bytes) -> list[_Answer]:
        with self._lock:
            for left in reversed(range(TRIES)):
                self._sequence = self._sequence + 1 & 0xFFFF_FFFF
                request = _REQUEST.pack(
                    _REQUEST.size,
                    _SOCK_DIAG_BY_FAMILY,
                    _NLM_F_REQUEST | flags,
                    self._sequence,
                    0,
                    family,
                    protocol,
                    0,
                    0,
                    states,
                    *id_,
                    _ANY_COOKIE,
                )
                try:
                    self._netlink.send(request)
                    return self._answers(is_dump=bool(flags))
                except OSError as error:
                    if error.errno not in _AGAIN or not left:
                        raise
            raise AssertionError("the last try returns or raises")

    def _answers(self, is_dump: bool) -> list[_Answer]:
        """Those to the last request; late ones to earlier requests are passed over."""
        found: list[_Answer] = []
        changed = False
        view = memoryview(self._buffer)
        while True:
            size = self._netlink.recv_into(self._buffer)
            at = 0
            while at + _HEADER.size <= size:
                length, kind, flags, sequence, _ = _HEADER.unpack_from(view, at)
                body, end = at + _HEADER.size, at + length
                at += max(length + 3 & ~3, _HEADER.size)
                if sequence != self._sequence:
                    continue
                changed = changed or bool(flags & _NLM_F_DUMP_INTR)
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    code = -_CODE.unpack_from(view, body)[0]
                    if code == errno.ENOENT and not is_dump:
                        return []
                    if code > 0 or changed:
                        raise OSError(code or errno.EINTR, "sock_diag")
                    return found
                found.append(_decoded(view, body, end))
                if not is_dump:
                    return found


def _decoded(view: memoryview, at: int, end: int) -> _Answer:
    (family, state, _, _, sport, dport, src, dst, ifindex, _, _, _, _, uid, inode) = _ANSWER.unpack_from(
        view, at
    )
    if family == socket.AF_INET:
        src, dst = MAPPED + src[:4], MAPPED + dst[:4]
    at += _ANSWER.size
    v6only, cgroup_id = False, None
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(view, at)
        if kind == _V6ONLY:
            v6only = bool(view[at + _ATTRIBUTE.size])
        elif kind == _CGROUP_ID:
            cgroup_id = _ID.unpack_from(view, at + _ATTRIBUTE.size)[0]
        at += max(length + 3 & ~3, _ATTRIBUTE.size)
    made = Socket(inode, uid, cgroup_id)
    return _Answer(state, socket.ntohs(sport), socket.ntohs(dport), src, dst, ifindex, v6only, made)


def _is_bound_to(answer: _Answer, query: Query) -> bool:
    if answer.src != query.src and answer.src not in _ANY:
        return False
    return (
        answer.ifindex in (0, query.ifindex) or not query.ifindex or answer.ifindex == _master(query.ifindex)
    )


def _may_be_v4(address: bytes) -> bool:
    return address in _ANY or address.startswith(MAPPED)


def _master(ifindex: int) -> int:
    """The device that an interface belongs to, such as a VRF, whose sockets send by it; 0: none."""
    try:
        return int(Path("/sys/class/net", socket.if_indextoname(ifindex), "master/ifindex").read_text())
    except (OSError, ValueError):
        return 0


def _unsupported(error: OSError) -> UnsupportedError:
    name = errno.errorcode.get(error.errno or 0, str(error))
    return UnsupportedError(
        f"the kernel doesn't tell whose socket it is (sock_diag: {name}); it needs the modules tcp_diag and udp_diag"
    )
