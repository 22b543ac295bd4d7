# SPDX-License-Identifier: MIT
"""The BPF object at work: configured, loaded and attached by one kind of hook; read in batches."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from pyegress import kernel
from pyegress.errors import UnsupportedError
from pyegress.escape import encoded
from pyegress.prefixes import Network, Verdict
from pyegress.record import Identity, Seen

KINDS = {
    "fentry": ("fentry/", "fexit/"),
    "kprobe": ("kprobe/", "kretprobe/"),
    "cgroup": ("cgroup/",),
}
"""Kinds of hooks, cheapest first, and how their sections in the object begin."""

WAKE_NS = 2_000_000
"""The kernel wakes the reader at most this often; soon enough to find a short process still in /proc."""
BATCH = 1024
_PAGE_BYTES = 4096


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel side is told before it is loaded."""

    window_ns: int = 10_000_000_000
    ring_bytes: int = 4 << 20
    """Rounded up to a power of two."""
    flows: int = 32768
    programs: int = 16384
    """Programs whose details the reader is thought to remember."""
    report_loopback: bool = False
    skip_tcp: bool = False
    skip_udp: bool = False
    ports: dict[int, Verdict] = {}
    only_ports: bool = False
    cidrs: dict[Network, Verdict] = {}
    only_cidrs: bool = False
    comms: dict[bytes, Verdict] = {}
    """By comm, padded with NUL to 16 bytes."""
    uids: dict[int, Verdict] = {}
    outside_comm: int | None = None
    """Number of the rule that hides programs which no entry of `comms` names; likewise for `uids`."""
    outside_uid: int | None = None
    hide_cgroups: bool = False
    """`hide_cgroup` will be called."""
    hide_programs: bool = False
    """`hide_program` will be called."""
    rules: int = 0
    """Rules that count their hits, numbered from 0."""
    synthesize: bool = False
    """Load the program that makes records without traffic, for tests and benchmarks."""


class AttachError(UnsupportedError):
    """One kind of hook can't be used: the errnos seen, and what the kernel said."""

    def __init__(self, kind: str, what: str, codes: set[int], log: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.codes = codes
        self.log = log


def explain(failures: Sequence[AttachError]) -> str:
    """Cause and way on when no kind of hook could be attached."""
    codes = {code for failure in failures for code in failure.codes}
    return kernel.explain(codes, "".join(failure.log for failure in failures))


class Session:
    """Hooks of one kind, observing from construction until `close`. Raises AttachError if none attaches."""

    def __init__(self, kind: str, settings: Settings) -> None:
        from pyegress._native import BPF_OBJECT, ffi, lib

        self._ffi, self._lib = ffi, lib
        self.kind = kind
        self.hooks: list[str] = []
        """Kernel functions or cgroup hooks that are attached."""
        self.missing: list[str] = []
        """Those that are not, each with the reason."""
        error = ffi.new("int *")
        self._self = lib.egress_open(os.fsencode(BPF_OBJECT), error)
        if not self._self:
            raise AttachError(kind, f"{BPF_OBJECT}: {kernel.errno_name(error[0])}", {-error[0]}, self.log())
        self._arena = ffi.new("struct egress_event[]", BATCH)
        self._view = memoryview(ffi.buffer(self._arena))
        self._record_bytes = ffi.sizeof("struct egress_event")
        self._verdicts = 0
        try:
            self._configure(settings)
            wanted = self._choose(settings)
            self._check(lib.egress_load(self._self), "load")
            self._fill(settings)
            self.own_tgid = int(self._check(lib.egress_learn_own_tgid(self._self), "run"))
            self._attach(wanted)
        except BaseException:
            self.close()
            raise
        finally:
            lib.egress_forget_kernel()

    @property
    def ffi(self) -> Any:
        """The cffi interface that knows the structs of egress.h."""
        return self._ffi

    def log(self) -> str:
        """What libbpf and the verifier said since the last call."""
        return str(self._ffi.string(self._lib.egress_log()).decode("utf-8", "replace"))

    def read(self, timeout_ms: int) -> memoryview:
        """Whole records from the ring, none after the time-out or when a signal came."""
        return self._records(self._lib.egress_read(self._self, timeout_ms, self._arena, BATCH), "read")

    def details(self) -> memoryview:
        """`struct egress_details` records that the last `read` found, each at a multiple of 8 bytes."""
        size = self._ffi.new("size_t *")
        found = self._lib.egress_details(self._self, size)
        return memoryview(self._ffi.buffer(found, size[0]))

    def hide_program(self, seen: Seen, rule: int) -> None:
        """Have the kernel drop events of a program while it is as it was seen."""
        process = {
            "identity": seen.identity._asdict(),
            "cgroup_id": seen.cgroup_id,
            "uid": seen.uid,
            "gid": seen.gid,
            "comm": encoded(seen.comm),
        }
        flags = self._lib.EGRESS_KNOWN_WHOLE | self._lib.EGRESS_KNOWN_HIDDEN
        value = self._ffi.new("struct egress_known *", {"process": process, "flags": flags, "rule": rule})
        self._set("known", bytes(self._ffi.buffer(self._identity(seen.identity))), value)
        # Only after it: then a flow that has seen the new number has seen the verdict.
        self._verdicts += 1
        self._set("verdicts", bytes(4), self._ffi.new("__u64 *", self._verdicts))

    def hide_cgroup(self, cgroup_id: int, rule: int) -> None:
        """Have the kernel drop events of all processes in a cgroup."""
        self._set("cgroups", cgroup_id.to_bytes(8, sys.byteorder), self._verdict(Verdict(rule, True, False)))

    def forget_program(self, identity: Identity) -> None:
        """Have the kernel send the details of a program again."""
        key = bytes(self._ffi.buffer(self._identity(identity)))
        self._lib.egress_forget(self._self, b"known", key, len(key))

    def forget_cgroup(self, cgroup_id: int) -> None:
        """Have the kernel send the path of a cgroup again."""
        self._lib.egress_forget(self._self, b"known_cgroups", cgroup_id.to_bytes(8, sys.byteorder), 8)

    def take_flows(self, before_ns: int) -> memoryview:
        """Repeats of flows idle since before that boot time; a full batch may not be all."""
        return self._records(
            self._lib.egress_take_flows(self._self, before_ns, self._arena, BATCH), "read flows"
        )

    def take_pending(self, before_ns: int) -> memoryview:
        """Connects begun before that boot time whose return the kernel did not show."""
        return self._records(
            self._lib.egress_take_pending(self._self, before_ns, self._arena, BATCH), "read connects"
        )

    def counters(self) -> dict[str, int]:
        """Every `enum egress_counter` by its name without the prefix, lower case."""
        names = self._ffi.typeof("enum egress_counter").relements
        total = names["EGRESS_COUNTERS"]
        values = self._ffi.new("__u64[]", total)
        self._check(self._lib.egress_sum(self._self, b"counters", values, total), "read counters")
        return {name.removeprefix("EGRESS_").lower(): values[at] for name, at in names.items() if at < total}

    def rule_hits(self, rules: int) -> Sequence[int]:
        """Hits by rule number."""
        if not rules:
            return []
        values = self._ffi.new("__u64[]", rules)
        self._check(self._lib.egress_sum(self._self, b"rule_hits", values, rules), "read rule hits")
        return list(values)

    def counted(self) -> int:
        """Datagrams that all UDP records read so far stand for."""
        return int(self._lib.egress_counted(self._self))

    def misses(self) -> int:
        """How often the kernel skipped an attached program because it already ran on that CPU."""
        return int(self._lib.egress_misses(self._self))

    def synthesize(self, records: int) -> None:
        """Put up to 1024 records of this thread into the ring."""
        self._check(self._lib.egress_synthesize(self._self, records), "run")

    def detach(self) -> None:
        """End observing; what is in the ring can still be read."""
        self._lib.egress_detach(self._self)

    def close(self) -> None:
        """Detach and let go of everything; may be called twice."""
        if self._self:
            self._lib.egress_close(self._self)
            self._self = None

    def _configure(self, settings: Settings) -> None:
        config = self._ffi.new(
            "struct egress_config *",
            {
                "window_ns": settings.window_ns,
                "wake_ns": WAKE_NS,
                "wake_bytes": settings.ring_bytes // 2,
                "report_loopback": settings.report_loopback,
                "skip_tcp": settings.skip_tcp,
                "skip_udp": settings.skip_udp,
                "has_ports": bool(settings.ports) or settings.only_ports,
                "has_only_ports": settings.only_ports,
                "has_cidrs": bool(settings.cidrs) or settings.only_cidrs,
                "has_only_cidrs": settings.only_cidrs,
                "has_comms": bool(settings.comms) or settings.outside_comm is not None,
                "has_uids": bool(settings.uids) or settings.outside_uid is not None,
                "has_cgroups": settings.hide_cgroups,
                "has_verdicts": settings.hide_programs,
                "has_outside_comm": settings.outside_comm is not None,
                "has_outside_uid": settings.outside_uid is not None,
                "has_cgroup_v1": kernel.has_cgroup_v1(),
                "outside_comm": settings.outside_comm or 0,
                "outside_uid": settings.outside_uid or 0,
            },
        )
        self._check(self._lib.egress_configure(self._self, config), "configure")
        versions = [network.version for network in settings.cidrs]
        for name, entries in (
            ("events", max(_PAGE_BYTES, 1 << (settings.ring_bytes - 1).bit_length())),
            ("flows", settings.flows),
            ("known", settings.programs),
            ("comms", max(1, len(settings.comms))),
            ("uids", max(1, len(settings.uids))),
            ("rule_hits", max(1, settings.rules)),
            ("ports", max(1, len(settings.ports))),
            ("cidrs4", max(1, versions.count(4))),
            ("cidrs6", max(1, versions.count(6))),
        ):
            self._check(self._lib.egress_size_map(self._self, name.encode(), entries), f"size {name}")

    def _choose(self, settings: Settings) -> list[tuple[int, str]]:
        """Set what is loaded; returns program number and function of each hook to attach."""
        wanted = []
        for program in range(self._lib.egress_program_count(self._self)):
            section = self._ffi.string(self._lib.egress_program_section(self._self, program)).decode()
            name = self._ffi.string(self._lib.egress_program_name(self._self, program)).decode()
            function = section.partition("/")[2]
            load = name == "whoami" or (name == "synthesize" and settings.synthesize)
            if section.startswith(KINDS[self.kind]):
                load = self.kind == "cgroup" or self._has(function)
                if load:
                    wanted.append((program, function))
            self._lib.egress_autoload(self._self, program, load)
        if not wanted:
            raise AttachError(self.kind, "the kernel has none of its functions", {errno.ENOENT}, self.log())
        return wanted

    def _has(self, function: str) -> bool:
        """Whether a function can be tried; a kprobe needs no BTF of it, so there attaching decides."""
        found = self._lib.egress_kernel_has(function.encode())
        if found < 0:
            raise AttachError(self.kind, f"no BTF ({kernel.errno_name(found)})", {-found}, self.log())
        if not found and self.kind == "fentry":
            self.missing.append(f"{function} (not in this kernel)")
        return bool(found) or self.kind == "kprobe"

    def _fill(self, settings: Settings) -> None:
        for port, verdict in settings.ports.items():
            self._set("ports", port.to_bytes(2, "big"), self._verdict(verdict))
        for network, verdict in settings.cidrs.items():
            key = network.prefixlen.to_bytes(4, sys.byteorder) + network.network_address.packed
            self._set(f"cidrs{network.version}", key, self._verdict(verdict))
        for comm, verdict in settings.comms.items():
            self._set("comms", comm, self._verdict(verdict))
        for uid, verdict in settings.uids.items():
            self._set("uids", uid.to_bytes(4, sys.byteorder), self._verdict(verdict))

    def _verdict(self, verdict: Verdict) -> Any:
        flags = (self._lib.EGRESS_IGNORE if verdict.ignore else 0) | (
            self._lib.EGRESS_ONLY if verdict.only else 0
        )
        return self._ffi.new("struct egress_verdict *", {"rule": verdict.rule, "flags": flags})

    def _identity(self, identity: Identity) -> Any:
        return self._ffi.new("struct egress_identity *", identity._asdict())

    def _set(self, name: str, key: bytes, value: Any) -> None:
        size = self._ffi.sizeof(self._ffi.typeof(value).item)
        self._check(
            self._lib.egress_set(self._self, name.encode(), key, len(key), value, size), f"fill {name}"
        )

    def _attach(self, wanted: list[tuple[int, str]]) -> None:
        cgroup = -1
        if self.kind == "cgroup":
            root = kernel.cgroup2_root()
            if root is None:
                raise AttachError(self.kind, "no cgroup v2 is mounted", {errno.ENOENT}, "")
            cgroup = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            failed: dict[str, int] = {}
            done: list[str] = []
            for program, function in wanted:
                code = self._lib.egress_attach(self._self, program, cgroup)
                if code:
                    failed[function] = -code
                else:
                    done.append(function)
        finally:
            if cgroup >= 0:
                os.close(cgroup)
        # An entry without its return (or the other way round) is no hook.
        self.hooks = [function for function in dict.fromkeys(done) if function not in failed]
        self.missing += [f"{function} ({kernel.errno_name(code)})" for function, code in failed.items()]
        if not self.hooks:
            names = sorted({kernel.errno_name(code) for code in failed.values()})
            raise AttachError(self.kind, f"attach: {', '.join(names)}", set(failed.values()), self.log())

    def _records(self, count: int, what: str) -> memoryview:
        if count < 0 and count != -errno.EINTR:  # then the caller looks around and reads again
            raise UnsupportedError(f"ebpf: {what}: {kernel.errno_name(count)}")
        return self._view[: max(count, 0) * self._record_bytes]

    def _check(self, code: int, what: str) -> int:
        if code < 0:
            raise AttachError(self.kind, f"{what}: {kernel.errno_name(code)}", {-code}, self.log())
        return code
