# SPDX-License-Identifier: MIT
"""The BPF object at work: configured, loaded and attached by one kind of hook; read in batches."""

from __future__ import annotations

import errno
import os
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from pyegress import kernel
from pyegress.errors import UnsupportedError
from pyegress.escape import encoded
from pyegress.prefixes import Network, Verdict
from pyegress.record import Identity, Seen
from pyegress.tables import Key, Step, Tables, hiding, moving, showing

KINDS = {
    "fentry": ("fentry/", "fexit/"),
    "kprobe": ("kprobe/", "kretprobe/"),
    "cgroup": ("cgroup/",),
}
"""Kinds of hooks, cheapest first, and how their sections in the object begin."""
MODULES = {"sctp_primitive_ASSOCIATE": "sctp", "packet_parse_headers": "af_packet"}
"""Functions of modules: where one isn't loaded, nobody uses what its hook would see."""
_OTHER = "other_"
"""How names of programs begin that see neither TCP nor UDP, by kprobes in both kinds; they alone are no session."""

WAKE_NS = 2_000_000
"""The kernel wakes the reader at most this often; soon enough to find a short process still in /proc."""
BATCH = 1024
_PAGE_BYTES = 4096
_MULTI = b"kprobe_multi_link_handler"
"""Only in kernels that have kprobe.multi (0dcac2725406, 5.18) with CONFIG_FPROBE."""
_TRACED = b"udp_sendmsg"
"""In every kernel with IPv4."""
_CLOCK_MONOTONIC_COARSE = 6
"""As linux/time.h numbers it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel side is told before it is loaded."""

    window_ns: int = 10_000_000_000
    ring_bytes: int = 4 << 20
    """Rounded up to a power of two."""
    flows: int = 32768
    programs: int = 4096
    """Programs whose details the reader is thought to remember."""
    report_loopback: bool = False
    wants: tuple[str, ...] = ()
    """Names of `enum egress_wants` in lower case; none: all."""
    others: bool = True
    """Attach hooks of other protocols than TCP and UDP, too. (Raw sockets can send those as well.)"""
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
    may_change: bool = False
    """`step` will be called: look at ports and networks, and leave room in all tables."""
    synthesize: bool = False
    """Load the program that makes records without traffic, for tests and benchmarks."""


_NETWORKS = 1 << 20
"""Room that costs nothing: their tables take memory for what is in them."""
CHANGEABLE = {
    "ports": 65535,
    "cidrs4": _NETWORKS,
    "cidrs6": _NETWORKS,
    "comms": 4096,
    "uids": 4096,
    "rule_hits": 8192,
}
"""How much tables hold that may be changed."""


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


def rule_out(kind: str) -> None:
    """Raises AttachError where a kind can't work here, in a hundredth of the time that it takes to try it.

    That it raises nothing says nothing. A kernel without the events of kprobes would load all their programs first,
    which takes the verifier longer than all else at a start; kprobe.multi alone would leave out TCP. What is read of
    the kernel is kept for the session that follows.
    """
    from pyegress._native import lib

    if kind == "kprobe" and not kernel.has_kprobes():
        raise AttachError(kind, "the kernel shows no kprobes", {errno.ENOENT}, "")
    if kind == "fentry":
        refused = lib.egress_try_tracing(_TRACED)
        if refused:
            raise AttachError(kind, f"load: {kernel.errno_name(refused)}", {-refused}, "")


class Session:
    """Hooks of one kind, observing from construction until `close`. Raises AttachError if none attaches."""

    def __init__(self, kind: str, settings: Settings) -> None:
        from pyegress._native import BPF_OBJECT, CAST_OBJECT, ffi, lib

        self._ffi, self._lib = ffi, lib
        if kind != "cgroup" and kernel.function_tracing_is_off():
            raise AttachError(kind, "function tracing is switched off", {errno.EBUSY}, "")
        self.kind = kind
        self.hooks: list[str] = []
        """Kernel functions or cgroup hooks that are attached."""
        self.missing: list[str] = []
        """Those that are not, each with the reason."""
        self._others: set[str] = set()
        self.absent: list[str] = []
        """Functions of MODULES whose module is not loaded."""
        error = ffi.new("int *")
        chosen = CAST_OBJECT if lib.egress_kernel_has(b"bpf_rdonly_cast") > 0 else BPF_OBJECT
        self._self = lib.egress_open(os.fsencode(chosen), error)
        if not self._self:
            raise AttachError(kind, f"{chosen}: {kernel.errno_name(error[0])}", {-error[0]}, self.log())
        self._arena = ffi.new("struct egress_event[]", BATCH)
        self._view = memoryview(ffi.buffer(self._arena))
        self._record_bytes = ffi.sizeof("struct egress_event")
        self._verdicts = self._changes = 0
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

    def step(self, step: Step) -> None:
        """Change one entry of a filter table, at a stroke; for ports and networks see `decide_anew`."""
        key = _key_bytes(step.table, step.key)
        if step.verdict is not None:
            self._set(step.table, key, self._verdict(step.verdict))
        else:
            self._forget(step.table, key)

    def decide_anew(self) -> None:
        """Have what `step` changed decide, not what was looked up before: until then either may."""
        self._changes += 1
        self._lib.egress_shared(self._self).changes = self._changes

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
        self._lib.egress_shared(self._self).verdicts = self._verdicts

    def hide_cgroup(self, cgroup_id: int, rule: int) -> None:
        """Have the kernel drop events of all processes in a cgroup."""
        self._set("cgroups", cgroup_id.to_bytes(8, sys.byteorder), self._verdict(Verdict(rule, True, False)))

    def forget_program(self, identity: Identity) -> None:
        """Have the kernel send the details of a program again."""
        self._lib.egress_forget_program(self._self, self._identity(identity))  # it may be gone already

    def forget_cgroup(self, cgroup_id: int) -> None:
        """Have the kernel send the path of a cgroup again."""
        self._forget("known_cgroups", cgroup_id.to_bytes(8, sys.byteorder))

    def show_cgroup(self, cgroup_id: int) -> None:
        """Undo `hide_cgroup`."""
        self._forget("cgroups", cgroup_id.to_bytes(8, sys.byteorder))

    def take_flows(self, everything: bool) -> memoryview:
        """Repeats of flows that were idle since this was last called, or of all; a full batch may not be all."""
        return self._records(
            self._lib.egress_take_flows(self._self, everything, self._arena, BATCH), "read flows"
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
        # What the coarse clocks advance by is the kernel's tick (linux/hrtimer.h: KTIME_LOW_RES).
        tick_ns = round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)
        has_ports = bool(settings.ports) or settings.only_ports or settings.may_change
        has_cidrs = bool(settings.cidrs) or settings.only_cidrs or settings.may_change
        has_comms = bool(settings.comms) or settings.outside_comm is not None
        has_uids = bool(settings.uids) or settings.outside_uid is not None
        sets = -(-settings.flows // self._lib.EGRESS_WAYS)
        config = self._ffi.new(
            "struct egress_config *",
            {
                "window_ns": settings.window_ns,
                "window_ticks": max(1, settings.window_ns // tick_ns),
                "tick_ns": tick_ns,
                "hash_factor": random.SystemRandom().getrandbits(64) | 1,
                "flow_sets": sets,
                "may_change": settings.may_change,
                "wake_ns": WAKE_NS,
                "wake_records": settings.ring_bytes // 2 // self._record_bytes,
                "report_loopback": settings.report_loopback,
                "wants": sum(getattr(self._lib, f"EGRESS_WANTS_{name.upper()}") for name in settings.wants),
                "has_destinations": has_ports or has_cidrs,
                "has_ports": has_ports,
                "has_only_ports": settings.only_ports,
                "has_cidrs": has_cidrs,
                "has_only_cidrs": settings.only_cidrs,
                "has_processes": has_comms or has_uids or settings.hide_cgroups,
                "has_comms": has_comms,
                "has_uids": has_uids,
                "has_cgroups": settings.hide_cgroups,
                "has_verdicts": settings.hide_programs,
                "keeps_hints": settings.window_ns > 0
                and not (has_comms or has_uids or settings.hide_cgroups),
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
            ("sets", sets),
            ("flows", sets * self._lib.EGRESS_WAYS),
            ("known", settings.programs),
            ("comms", max(1, len(settings.comms))),
            ("uids", max(1, len(settings.uids))),
            ("rule_hits", max(1, settings.rules)),
            ("ports", max(1, len(settings.ports))),
            ("cidrs4", max(1, versions.count(4))),
            ("cidrs6", max(1, versions.count(6))),
        ):
            entries = max(entries, CHANGEABLE.get(name, 0)) if settings.may_change else entries
            self._check(self._lib.egress_size_map(self._self, name.encode(), entries), f"size {name}")

    def _choose(self, settings: Settings) -> list[tuple[int, str]]:
        """Set what is loaded; returns program number and function of each hook to attach."""
        wanted = []
        for program in range(self._lib.egress_program_count(self._self)):
            section = self._ffi.string(self._lib.egress_program_section(self._self, program)).decode()
            name = self._ffi.string(self._lib.egress_program_name(self._self, program)).decode()
            load = name == "whoami" or (name == "synthesize" and settings.synthesize)
            is_other = name.startswith(_OTHER)
            if section.startswith(KINDS[self.kind]) or (
                is_other and self.kind != "cgroup" and settings.others
            ):
                for function in section.partition("/")[2].split(","):
                    if self.kind == "cgroup" or self._has(function, is_other):
                        load = True
                        wanted.append((program, function))
                        self._others |= {function} if is_other else set()
            self._lib.egress_autoload(self._self, program, load)
        if self.kind != "cgroup" and self._lib.egress_kernel_has(_MULTI) > 0:
            self._lib.egress_use_multi(self._self)
        if not wanted:
            raise AttachError(self.kind, "the kernel has none of its functions", {errno.ENOENT}, self.log())
        return wanted

    def _has(self, function: str, by_kprobe: bool) -> bool:
        """Whether a function can be tried; a kprobe needs no BTF of it, so there attaching decides."""
        found = self._lib.egress_kernel_has(function.encode())
        if found < 0:
            raise AttachError(self.kind, f"no BTF ({kernel.errno_name(found)})", {-found}, self.log())
        if not found and function in MODULES:
            # What its program reads of the module's structs can't be found without.
            if kernel.has_module(MODULES[function]):
                self.missing.append(f"{function} (no BTF of its module)")
            else:
                self.absent.append(function)
            return False
        if self.kind == "kprobe" or by_kprobe:
            return True
        if not found:
            self.missing.append(f"{function} (not in this kernel)")
        return bool(found)

    def _fill(self, settings: Settings) -> None:
        new = Tables(settings.ports, settings.cidrs, settings.comms, settings.uids)
        for steps in (hiding, moving, showing):
            for step in steps(Tables(), new):
                self.step(step)

    def _verdict(self, verdict: Verdict) -> Any:
        flags = (self._lib.EGRESS_IGNORE if verdict.ignore else 0) | (
            self._lib.EGRESS_ONLY if verdict.only else 0
        )
        return self._ffi.new("struct egress_verdict *", {"rule": verdict.rule, "flags": flags})

    def _identity(self, identity: Identity) -> Any:
        return self._ffi.new("struct egress_identity *", identity._asdict())

    def _forget(self, name: str, key: bytes) -> None:
        """It may be gone already."""
        self._lib.egress_forget(self._self, name.encode(), key, len(key))

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
                code = self._lib.egress_attach(self._self, program, function.encode(), cgroup)
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
        if not set(self.hooks) - self._others:
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


def _key_bytes(table: str, key: Key) -> bytes:
    if isinstance(key, bytes):
        return key
    if isinstance(key, int):
        return key.to_bytes(2, "big") if table == "ports" else key.to_bytes(4, sys.byteorder)
    return key.prefixlen.to_bytes(4, sys.byteorder) + key.network_address.packed
