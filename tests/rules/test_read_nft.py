# SPDX-License-Identifier: MIT
"""Files as pyegress writes them, with an administrator's edits, and nothing that is only half understood."""

from __future__ import annotations

import pytest

from pyegress.errors import InputError
from pyegress.rules.addresses import Network
from pyegress.rules.read_nft import own_table, read_text

FILE = """# a comment
add table inet pyegress
delete table inet pyegress
table inet pyegress {
\tset any_tcp4 {
\t\ttype ipv4_addr . inet_service
\t\tflags interval
\t\telements = {
\t\t\t# why
\t\t\t192.0.2.0/24 . 80-81 comment "a # b", 192.0.3.1 . 443,
\t\t}
\t}
\tchain output {
\t\ttype filter hook output priority filter; policy accept;
\t\tct state established,related accept
\t\tmeta skuid 1000 ip daddr . tcp dport @any_tcp4 counter accept
RULES
\t\tcounter drop
\t}
}
"""


def file(rules: str = "") -> str:
    """With more rules in the chain."""
    return FILE.replace("RULES\n", f"{rules}\n" if rules else "")


def test_elements_are_entries() -> None:
    """In the rule's place, with its other matches and lines of their own."""
    (firewall,) = read_text(file())
    established, wide, one, rest = firewall.entries
    assert established.established
    assert (wide.network, wide.dports, wide.uids) == (
        Network(4, 0xC0000200, 24),
        ((80, 81),),
        ((1000, 1000),),
    )
    assert (wide.line, wide.comment, one.line, one.comment) == (10, "a # b", 10, None)
    assert (one.protocol, one.verdict, rest.verdict, rest.network) == (6, "accept", "drop", None)
    assert own_table(file()) == "pyegress"


@pytest.mark.parametrize(
    "rule",
    [
        "ip saddr 192.0.2.1 accept",
        "tcp dport != 22 accept",
        "tcp dport 70000 accept",
        "ip daddr fe80::1 accept",
        "jump other",
        "ip daddr . tcp dport @nothing accept",
        'log prefix "unended',
        'oifname "eth*" accept',
        "tcp dport 22 tcp dport 1-1024 accept",
        "tcp dport 22 meta l4proto udp accept",
        "accept tcp dport 22",
        "accept; drop",
        "tcp dport no-such-service accept",
        "ct state untracked accept",
        'socket cgroupv2 level 1 "a.slice/b.service" accept',
        "log prefix ; accept",
    ],
)
def test_what_is_not_understood(rule: str) -> None:
    """An error with the line, never a guess."""
    with pytest.raises(InputError, match="line 17"):
        read_text(file(f"\t\t{rule}"))


@pytest.mark.parametrize(
    "foreign",
    [
        "flush ruleset",
        "table ip filter { }",
        'include "/etc/x"',
        "delete table inet other",
        "add rule ip a b drop",
    ],
)
def test_nothing_but_its_own_table(foreign: str) -> None:
    """Before or behind it."""
    for text in (f"{foreign}\n{file()}", f"{file()}{foreign}\n"):
        with pytest.raises(InputError, match="only one inet table"):
            own_table(text)


@pytest.mark.parametrize("cut", range(2, 19))
def test_cut_off(cut: int) -> None:
    """A file that ends too soon is one to whoever reads it."""
    with pytest.raises(InputError):
        read_text("\n".join(file().splitlines()[:cut]))


@pytest.mark.parametrize(
    "hidden",
    [
        ("inet_service\n", "inet_service; } } flush ruleset; table inet pyegress { set x { type ipv4_addr\n"),
        ("192.0.3.1 . 443,", "192.0.3.1 . } } flush ruleset,"),
        ("set any_tcp4 {", "set } {"),
        ("table inet pyegress {", "table inet pyegress { flags dormant;"),
    ],
)
def test_nothing_hides_in_a_line(hidden: tuple[str, str]) -> None:
    """What nft would run is never taken for a word."""
    with pytest.raises(InputError, match="line"):
        own_table(file().replace(*hidden))


def test_deleted_where_it_is_made() -> None:
    """Behind it, nothing would be left; without it, older rules would."""
    delete = "delete table inet pyegress\n"
    for text in (file().replace(delete, ""), file() + delete):
        with pytest.raises(InputError, match="line"):
            own_table(text)


def test_edits() -> None:
    """Simple matches, comments behind a line, semicolons, services by name, another policy, a range of addresses."""
    text = file(
        '\t\ticmp type echo-request accept; # for "the others\n'
        "\tct state new tcp dport { ssh, 80-90 } accept\n"
        "ip daddr 192.0.2.1-192.0.2.2 ip protocol gre accept\n"
        "ip daddr 0.0.0.0/0 oifname { lo, eth0 } drop\n"
        "limit rate 10/second accept"
    ).replace("policy accept", "policy drop")
    (firewall,) = read_text(text)
    echo, new, low, high, local, device, limited = firewall.entries[3:-1]
    assert firewall.policy == "drop"
    assert (echo.family, echo.protocol, echo.icmp_types) == (4, 1, ((8, 8),))
    assert (new.established, new.protocol, new.dports) == (False, 6, ((22, 22), (80, 90)))
    assert [str(each.network) for each in (low, high, local)] == ["192.0.2.1", "192.0.2.2", "0.0.0.0/0"]
    assert (low.protocol, local.loopback, device.oifname) == (47, True, "eth0")
    assert limited.unknown


def test_bad_element_is_named() -> None:
    """Not the rule that looks into its set."""
    with pytest.raises(InputError, match=r"line 10: 192\.0\.3\.1 \. x: is not understood"):
        read_text(file().replace("192.0.3.1 . 443", "192.0.3.1 . x"))


NAMED = """\tset name4_a_exampl_aaaaaaaaaaaa {
\t\ttype ipv4_addr
\t\tflags timeout
\t\ttimeout 1d12h
\t\telements = {
\t\t\t192.0.2.9 comment "curl",
\t\t\t192.0.2.8 timeout 1d expires 23h59m57s972ms comment "curl", 192.0.2.7 timeout 60s,
\t\t}
\t}
\tset name6_a_exampl_aaaaaaaaaaaa {
\t\ttype ipv6_addr
\t\tflags timeout
\t}
\tset mine {
\t\ttype ipv4_addr
\t}
\tchain output {"""


def test_sets_of_names() -> None:
    """Each address is an entry, which tells its name; a set without addresses lets nothing through."""
    rules = 'ip daddr @name4_a_exampl_aaaaaaaaaaaa tcp dport { 80, 443 } counter accept comment "a.example"\n'
    rules += "ip6 daddr @name6_a_exampl_aaaaaaaaaaaa meta l4proto 132 accept"
    (firewall,) = read_text(file(rules).replace("\tchain output {", NAMED))
    named = [entry for entry in firewall.entries if entry.name_set is not None]
    assert [(str(entry.network), entry.dports, entry.comment) for entry in named[:-1]] == [
        (f"192.0.2.{host}", ((80, 80), (443, 443)), "a.example") for host in (9, 8, 7)
    ]
    assert [(entry.line, bool(entry.unknown)) for entry in named] == [
        (18, False),
        (19, False),
        (19, False),
        (34, True),
    ]
    assert named[-1].family == 6


@pytest.mark.parametrize("rule", ["ip daddr @mine accept", "ip daddr @name4_a_exampl_bbbbbbbbbbbb accept"])
def test_other_sets(rule: str) -> None:
    """Aren't understood."""
    with pytest.raises(InputError, match="^nft: line "):
        read_text(file(rule).replace("\tchain output {", NAMED))
