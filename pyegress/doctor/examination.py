# SPDX-License-Identifier: MIT
"""All that the doctor looks at, in the order of its report, and what it comes to."""

from __future__ import annotations

import errno
from functools import partial

import msgspec

from pyegress import __version__
from pyegress.doctor import (
    cgroups,
    firewalls,
    hooks,
    host,
    limits,
    others,
    packets,
    rights,
    ringbuffer,
    services,
)
from pyegress.doctor.finding import Check, Finding
from pyegress.doctor.hooks import Trial
from pyegress.escape import display
from pyegress.session import KINDS, AttachError, explain

BEFORE: dict[str, Check] = {
    "kernel": host.release,
    "architecture": host.architecture,
    **dict.fromkeys(rights.CAPABILITIES, rights.capability),
    "memlock": limits.memlock,
    "open-files": limits.open_files,
    "lockdown": host.lockdown,
    "btf": host.btf,
    "ring-buffer": ringbuffer.ring_buffer,
    "cgroup-v2": cgroups.hierarchy,
}
AFTER: dict[str, Check] = {
    "nflog": packets.nflog,
    "nfqueue": packets.nfqueue,
    "pcap": packets.pcap,
    "sock-diag-tcp": packets.sock_diag_tcp,
    "sock-diag-udp": packets.sock_diag_udp,
    "proc": others.processes,
    "iptables": firewalls.iptables,
    "ip6tables": firewalls.iptables,
    "nft": firewalls.nft,
    "systemd": services.systemd,
    "journald": services.journald,
    "clock": host.clock,
}
"""Checks by the names in the report, before and after those of the hooks, which have the names of KINDS."""


class Examination(msgspec.Struct, frozen=True):
    """The report; a key of its JSON each."""

    version: str
    works: bool
    """Whether an audit by eBPF sees connections."""
    hooks: str | None
    """The kind of hooks that `pyegress run` will use."""
    verdict: str
    """The same in a sentence."""
    findings: list[Finding]


def examine() -> Examination:
    """Try everything; nothing of it is left."""
    findings = [_checked(name, check) for name, check in BEFORE.items()]
    trials = [hooks.attempt(kind) for kind in KINDS]
    findings += [_checked(trial.kind, partial(_finding, trial)) for trial in trials]
    findings += [_checked(name, check) for name, check in AFTER.items()]
    return _concluded(trials, findings)


def _finding(trial: Trial, _: str) -> Finding:
    return hooks.finding(trial)


def _checked(name: str, check: Check) -> Finding:
    """What a check finds; its own failure is a finding too."""
    try:
        return check(name)
    except OSError as error:
        way_on = "see open-files" if error.errno in (errno.EMFILE, errno.ENFILE) else None
        return Finding(name, "unknown", f"can't be tried: {error.strerror}", way_on)
    except Exception as error:
        told = f"the check itself failed: {type(error).__name__}: {display(str(error))}"
        return Finding(name, "unknown", told, "please report it")


def _concluded(trials: list[Trial], findings: list[Finding]) -> Examination:
    # The first that attaches, as inputs/ebpf.py does.
    used = next((trial for trial in trials if trial.error is None), None)
    if used is None:
        failures = [trial.error for trial in trials if isinstance(trial.error, AttachError)]
        why = explain(failures) if failures else display(str(trials[0].error))
        return Examination(__version__, False, None, f"nothing attaches: {why}", findings)
    verdict = f"pyegress will use {used.kind}"
    is_blind = not used.saw and used.doubt is None
    if is_blind:
        verdict += ", which sees nothing here: try another kind with -I ebpf:attach:"
    return Examination(__version__, not is_blind, used.kind, verdict, findings)
