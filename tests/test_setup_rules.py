# SPDX-License-Identifier: MIT
"""Rules for nflog and nfqueue: real iptables and nft take them, packets arrive by them, and they can be removed."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyegress.errors import UsageError
from pyegress.netfilter.log import LogGroup
from pyegress.netfilter.queue import Queue
from pyegress.options import Queues
from pyegress.setup_rules import nflog, nfqueue, text
from tests.netns import add_link, needs_netfilter, own_netns, run

FIREWALLS = ("iptables", "nft")
NOWHERE = ("198.51.100.7", "2001:db8:1::7")
NO_MATCH_OF_THE_KERNEL = "Error: Could not process rule: No such file or directory"


@pytest.fixture
def netns() -> Iterator[None]:
    """A network namespace with a link beside lo."""
    with own_netns():
        add_link()
        yield


def load(rules: str, firewall: str, folder: Path) -> None:
    """As the text says."""
    file = folder / "rules"
    file.write_text(rules)
    loading = re.search("Load with: (.+) FILE[.]", rules)
    assert loading is not None
    assert loading[1] == {"iptables": "sh", "nft": "nft -f"}[firewall]
    run(f"{loading[1]} {file}")


def unload(rules: str) -> None:
    """As the text says."""
    commands = re.findall("^#   (.+)$", rules, re.MULTILINE)
    assert commands
    for command in commands:
        run(command)


def whole_ruleset() -> str:
    """Rules without their counters, and without chains that iptables made of itself."""
    lines = run("iptables-save; ip6tables-save; nft list tables | grep pyegress || true").splitlines()
    return "\n".join(line for line in lines if line.startswith(("-A", "table inet pyegress")))


def send() -> None:
    """A datagram of each family to a host, and one to ourselves."""
    for host in (*NOWHERE, "127.0.0.1", "::1"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", (host, 9))


@needs_netfilter
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("firewall", FIREWALLS)
def test_nflog_rules(firewall: str, tmp_path: Path) -> None:
    """They load, twice too where it is a table of ours; both families arrive, loopback doesn't; and they go again."""
    rules = nflog(100, firewall)
    load(rules, firewall, tmp_path)
    if firewall == "nft":
        load(rules, firewall, tmp_path)
    with closing(LogGroup(100, 1 << 20)) as group:
        send()
        assert [packet.family for packet in group.receive()] == [socket.AF_INET, socket.AF_INET6]
    unload(rules)
    assert whole_ruleset() == ""


@needs_netfilter
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("bypass", [True, False])
@pytest.mark.parametrize("queues", [Queues(3, 3), Queues(3, 6)], ids=str)
def test_nfqueue_rules_of_iptables(queues: Queues, bypass: bool, tmp_path: Path) -> None:
    """They load; both families arrive, loopback doesn't; and they go again."""
    rules = nfqueue(queues, bypass, "iptables")
    load(rules, "iptables", tmp_path)
    opened = [Queue(number, 100, 1 << 20, False) for number in range(queues.first, queues.last + 1)]
    send()
    families = [packet.family for queue in opened for packet in queue.receive()]
    assert sorted(families) == [socket.AF_INET, socket.AF_INET6]
    for queue in opened:
        queue.close()
    unload(rules)
    assert whole_ruleset() == ""


@needs_netfilter
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize(
    ("queues", "bypass", "statement"),
    [
        (Queues(3, 3), False, "queue num 3"),
        (Queues(3, 3), True, "queue num 3 bypass"),
        (Queues(0, 3), False, "queue num 0-3 fanout"),
        (Queues(0, 3), True, "queue num 0-3 bypass fanout"),
    ],
)
def test_nfqueue_rules_of_nft(queues: Queues, bypass: bool, statement: str, tmp_path: Path) -> None:
    """nft understands them as they are meant, also where the kernel has no `queue`; and they go again."""
    rules = nfqueue(queues, bypass, "nft")
    file = tmp_path / "rules"
    file.write_text(rules)
    command = ["nft", "--debug=netlink", "-f", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert f"[ {statement} ]" in done.stdout
    if done.returncode:
        assert NO_MATCH_OF_THE_KERNEL in done.stderr
        assert done.stderr.count("Error: ") == 1
        pytest.skip("this kernel has no CONFIG_NFT_QUEUE: syntax checked, not loaded")
    unload(rules)
    assert whole_ruleset() == ""


@needs_netfilter
@pytest.mark.usefixtures("netns")
def test_accepted_packets_still_meet_the_filter_rules(tmp_path: Path) -> None:
    """An accepting verdict opens nothing that the host's own rules close."""
    run("iptables -A OUTPUT -p udp -j DROP")
    load(nfqueue(Queues(3, 3), False, "iptables"), "iptables", tmp_path)
    with (
        closing(Queue(3, 100, 1 << 20, False)) as queue,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.sendto(b"x", (NOWHERE[0], 9))
        (packet,) = queue.receive()
        queue.verdict(packet.packet_id, True)
    assert run("iptables -L OUTPUT -vnx").splitlines()[2].split()[0] == "1"


@pytest.mark.parametrize("firewall", FIREWALLS)
def test_what_happens_without_pyegress_is_said(firewall: str) -> None:
    """Fail-open or fail-closed, in words and in the rule."""
    assert "Nothing is held up or dropped" in nflog(0, firewall)
    opened, closed = (nfqueue(Queues(0, 0), bypass, firewall) for bypass in (True, False))
    assert "Fail-open" in opened and "bypass" in opened.splitlines()[-1 if firewall == "iptables" else -3]
    assert "Fail-closed" in closed and "bypass" not in closed.partition("Load with")[2]


def test_from_the_words_of_a_command_line() -> None:
    """The same text."""
    for firewall in FIREWALLS:
        assert text("nflog", firewall, group="7", queue="0", bypass=True) == nflog(7, firewall)
        assert text("nfqueue", firewall, group="0", queue="0-3", bypass=True) == nfqueue(
            Queues(0, 3), True, firewall
        )


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        ("nflog", {"group": "65536"}, "--group 65536: must be 0..65535"),
        ("nflog", {"group": "-1"}, "--group -1: must be 0..65535"),
        ("nflog", {"group": "a\x1b"}, r"--group a\u001b: must be a whole number"),
        ("nfqueue", {"queue": "3-0"}, "--queue 3-0: must not end before it starts"),
        ("nfqueue", {"queue": "65536"}, "--queue 65536: must be 0..65535"),
    ],
)
def test_numbers_that_can_not_be(what: str, given: dict[str, str], message: str) -> None:
    """The option is named with what is right."""
    words = {"group": "0", "queue": "0", **given}
    with pytest.raises(UsageError) as raised:
        text(what, "nft", bypass=False, **words)
    assert str(raised.value) == message
