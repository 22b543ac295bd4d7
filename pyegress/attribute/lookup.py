# SPDX-License-Identifier: MIT
"""From a packet to the process that sent it, by its socket: for inputs that see packets and not processes.

What is told is the one process that holds the packet's socket while it is looked for, or why there is none to tell. It
is never a guess: where two processes can have sent it, that is `ambiguous`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pyegress.attribute.containers import ContainerNames
from pyegress.attribute.living import Living
from pyegress.attribute.namespaces import Namespaces
from pyegress.attribute.owners import AMBIGUOUS, FORBIDDEN, NOBODY, OTHER_NAMESPACE, Holder, Owners
from pyegress.attribute.sockets import UDP_LIKE, Socket, SocketTable
from pyegress.attribute.sockets import Query as Query
from pyegress.record import Process

GONE = "process gone"
NO_ANSWER = "no answer from the kernel"
WITHOUT_PORTS = "packet without ports"
_MISSED = (FORBIDDEN, NOBODY, OTHER_NAMESPACE)
"""Where the socket is gone by now, that is the better reason."""


class Found(NamedTuple):
    """The process, and what the socket itself told."""

    process: Process
    uid: int | None = None


class Unknown(NamedTuple):
    """Why the process is not known, and what the socket itself told."""

    reason: str
    """GONE, NO_ANSWER, WITHOUT_PORTS, one of pyegress.attribute.owners, or `no look-up for protocol N`."""
    uid: int | None = None
    cgroup_id: int | None = None


Answer = Found | Unknown


class Lookup:
    """`find` is for one thread, `search` for another one at the same time.

    Looks in the network namespace of the calling thread. `may_trace` tells whether we have CAP_SYS_PTRACE, `forbidden`
    is called when more could be told with it, `cgroup_root` is where the whole of cgroup v2 is mounted. Raises
    UnsupportedError where the kernel doesn't tell of sockets.
    """

    def __init__(
        self,
        may_trace: Callable[[], bool],
        forbidden: Callable[[], None],
        cgroup_root: Path | None = None,
        names: ContainerNames | None = None,
    ) -> None:
        self._sockets = SocketTable()
        try:
            self._owners = Owners(may_trace, forbidden, cgroup_root)
        except BaseException:
            self._sockets.close()
            raise
        self._living = Living(forbidden, names, cgroup_root)
        self._namespaces = Namespaces()

    def find(self, query: Query) -> Answer | None:
        """The answer where it is quick to get; None where only `search` can tell."""
        refused = _refused(query)
        if refused is not None:
            return refused
        if not query.local:
            known = self._namespaces.is_stranger(query.src)
            return Unknown(OTHER_NAMESPACE, query.uid) if known else None
        candidates = self._candidates(query)
        if isinstance(candidates, Unknown):
            return candidates
        return self._settled(query, candidates, lambda one: self._owners.find(one.inode, one.cgroup_id))

    def search(self, queries: Sequence[Query]) -> list[Answer]:
        """The answer to each, whatever has to be read: all of /proc, and other network namespaces."""
        candidates = self._all_candidates(queries)
        wanted = {
            one.inode: one.uid
            for each in candidates
            if not isinstance(each, Unknown)
            for one in each
            if one.inode
        }
        held = self._owners.search(wanted) if wanted else {}
        answers = []
        for query, each in zip(queries, candidates, strict=True):
            answer = (
                each if isinstance(each, Unknown) else self._settled(query, each, lambda one: held[one.inode])
            )
            if answer is None:
                raise AssertionError("a search leaves nothing open")
            if isinstance(answer, Unknown) and answer.reason in _MISSED and query.local:
                again = self._candidates(query)
                answer = again if isinstance(again, Unknown) else answer
            answers.append(answer)
        return answers

    def close(self) -> None:
        """Look for nothing more."""
        self._sockets.close()
        self._owners.close()
        self._living.close()

    def _candidates(self, query: Query) -> list[Socket] | Unknown:
        try:
            found = self._sockets.find(query)
        except OSError:
            return Unknown(NO_ANSWER, query.uid)
        return _alive(query, found)

    def _all_candidates(self, queries: Sequence[Query]) -> list[list[Socket] | Unknown]:
        refused = [_refused(query) for query in queries]
        forwarded = [
            number for number, query in enumerate(queries) if not query.local and refused[number] is None
        ]
        elsewhere = self._namespaces.search([queries[number] for number in forwarded])
        by_number = dict(zip(forwarded, elsewhere, strict=True))
        return [
            refused[number]
            or (_chosen(query, by_number[number]) if number in by_number else self._candidates(query))
            for number, query in enumerate(queries)
        ]

    def _settled(
        self, query: Query, candidates: Sequence[Socket], holder_of: Callable[[Socket], Holder | str | None]
    ) -> Answer | None:
        """The process that holds all of them; None where one isn't known yet."""
        first = candidates[0]
        found = [(one, holder_of(one)) for one in candidates]
        if any(holder is None for _, holder in found):
            return None
        reasons = {holder for _, holder in found if isinstance(holder, str)}
        if reasons:
            sure = len(candidates) == 1 or reasons == {FORBIDDEN}
            return Unknown(reasons.pop() if sure else AMBIGUOUS, *_told(candidates))
        holders = {holder[:2] for _, holder in found if isinstance(holder, Holder)}
        if len(holders) > 1 or (query.uid is not None and query.uid != first.uid and query.local):
            return Unknown(AMBIGUOUS, *_told(candidates))
        process = self._living.process(*holders.pop())
        # Again, because the number could have been given to another process while that was read.
        if process is None or not all(
            self._owners.holds(holder, one.inode) for one, holder in found if isinstance(holder, Holder)
        ):
            return Unknown(GONE, *_told(candidates))
        return Found(process, _told(candidates)[0])


def _refused(query: Query) -> Unknown | None:
    """Why there is no look-up for such a packet."""
    if query.protocol != socket.IPPROTO_TCP and query.protocol not in UDP_LIKE:
        return Unknown(f"no look-up for protocol {query.protocol}", query.uid)
    if query.sport is None or query.dport is None:
        return Unknown(WITHOUT_PORTS, query.uid)
    return None


def _alive(query: Query, found: Sequence[Socket]) -> list[Socket] | Unknown:
    """Those that a process can hold."""
    alive = [one for one in found if one.inode]
    if alive:
        return alive
    cgroup_id = found[0].cgroup_id if found else None
    # Before 6.17 the owner of a socket without a process is told as 0.
    uid = found[0].uid if found and found[0].uid else None
    return Unknown(GONE, query.uid if query.uid is not None else uid, cgroup_id)


def _chosen(query: Query, namespaces: Sequence[Sequence[Socket]]) -> list[Socket] | Unknown:
    """The sockets of the namespace that sent it, from what each with its source address has."""
    if not namespaces:
        return Unknown(OTHER_NAMESPACE, query.uid)
    if len(namespaces) == 1:
        return _alive(query, namespaces[0])
    having = [found for found in namespaces if found]
    # An address that two have is told apart by a connection, which has another end too, but not by a port.
    if query.protocol == socket.IPPROTO_TCP and len(having) == 1:
        return _alive(query, having[0])
    return Unknown(AMBIGUOUS if having else OTHER_NAMESPACE, query.uid)


def _told(candidates: Sequence[Socket]) -> tuple[int | None, int | None]:
    """Owner and cgroup that all of them have."""
    uids = {one.uid for one in candidates}
    cgroups = {one.cgroup_id for one in candidates}
    return (uids.pop() if len(uids) == 1 else None, cgroups.pop() if len(cgroups) == 1 else None)
