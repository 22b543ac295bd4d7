# SPDX-License-Identifier: MIT
"""The programs that load and list rules: which are installed, whether they work, and who else decides."""

from __future__ import annotations

from pyegress.apply import programs
from pyegress.doctor.finding import Finding, of_error
from pyegress.errors import EgressError
from pyegress.rules import live
from pyegress.rules.addresses import Family
from pyegress.rules.nft import TABLE

_BACKENDS = {"nft": "(nf_tables)", "legacy": "(legacy)"}
"""As `--version` calls them."""


def iptables(name: str) -> Finding:
    """iptables or ip6tables: have it list its rules, and look for tables of the other backend."""
    family: Family = 4 if name == "iptables" else 6
    save = f"{name}-save"
    if not live.is_installed(save):
        return Finding(name, "fails", f"{save} is not installed", "apt install iptables, or use nft alone")
    try:
        version = programs.run(save, "--version")
        live.iptables_chain(family)
        other = live.other_backend(family)
    except EgressError as error:
        return of_error(name, error)
    default = next((backend for backend, word in _BACKENDS.items() if word in version), "only")
    installed = [backend for backend in _BACKENDS if live.is_installed(f"{name}-{backend}-save")]
    detail = f"{default} backend; installed: {', '.join(installed) or default}"
    if other is not None:
        return Finding(
            name,
            "limited",
            f"{detail}; the {other} backend has tables too, and both decide",
            f"see {name}-{other}-save, and keep rules in one of them",
        )
    return Finding(name, "works", detail)


def nft(name: str) -> Finding:
    """Have it list our table, which need not be there."""
    if not live.is_installed(name):
        return Finding(name, "fails", "not installed", "apt install nftables, or use iptables")
    try:
        loaded = live.nft_table(TABLE)
    except EgressError as error:
        return of_error(name, error)
    return Finding(name, "works", f"table inet {TABLE} is {'loaded' if loaded else 'not loaded'}")
