# SPDX-License-Identifier: MIT
"""The shipped units under a running systemd, with all of their hardening, in a guest that has one as its init."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from pyegress.privileges import Capability
from pyegress.rules.hostnames import NFT_PREFIX, set_name
from tests import systemdguest
from tests.guest import Unavailable
from tests.names import resolved
from tests.test_dist import WHEELHOUSE, run

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "deploy/systemd"
LOGROTATE = ROOT / "deploy/logrotate/pyegress"
LOG = "/var/log/pyegress/egress.log"
PROGRAM = f"""#!{systemdguest.PYTHON}/bin/{Path(sys.executable).resolve().name}
import sys
sys.path.insert(0, {systemdguest.APPLICATION!r})
from pyegress.__main__ import main
main()
"""
CONFIG = f"""
[inputs.ebpf]
ignore-port = [53]
[outputs.json]
file = "{LOG}"
"""
HOSTS_NAME, HOSTS_ADDRESS = "here.example", "198.18.7.7"
DNS_NAME, DNS_ADDRESS, DNS_SERVER = "there.example", "198.18.7.8", "127.0.0.8"
HOSTS = f"127.0.0.1 localhost\n{HOSTS_ADDRESS} {HOSTS_NAME}\n"
NAME_SETS = {name: set_name(NFT_PREFIX, name, 4) for name in (HOSTS_NAME, DNS_NAME)}
RULES = "".join(
    f"""
table inet pyegress {{
  set {name_set} {{ type ipv4_addr; flags timeout; timeout 1d; }}
  chain output {{ type filter hook output priority 0; ip daddr @{name_set} tcp dport 443 accept comment "{name}"; }}
}}
"""
    for name, name_set in NAME_SETS.items()
)
# As its package has it, but with a user that is on each host. It answers only while there is a network.
RESOLVED = f"""
[Service]
Type=notify
ExecStart={systemdguest.APPLICATION}/systemd-resolved
User=nobody
AmbientCapabilities=CAP_SETPCAP CAP_NET_RAW CAP_NET_BIND_SERVICE
RuntimeDirectory=systemd/resolve
"""
RESOLVED_CONF = f"[Resolve]\nDNS={DNS_SERVER}\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n"
DNSMASQ = (
    f"dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --pid-file= --user=root --bind-interfaces "
    f"--listen-address={DNS_SERVER} --host-record={DNS_NAME},{DNS_ADDRESS}"
)
SCRIPT = f"""
property() {{ systemctl show "${{2:-pyegress}}" -p "$1" --value; }}
wait_for() {{ while ! "$@"; do sleep 0.2; done; }}
logged() {{ grep -qs "dest_port.:$1," {LOG}; }}
warned() {{ journalctl -q -u pyegress -p warning | grep -q pyegress.toml; }}
beaten() {{ test "$(property WatchdogTimestampMonotonic)" != $beat; }}
allowed() {{ nft list set inet pyegress $1 | grep -q $2; }}
idle() {{ test "$(property ActiveState pyegress-names)" = inactive; }}
named() {{ grep -qs "dest_port.:$1,.*{DNS_NAME}" {LOG}; }}
ip link set lo up
ip route add local 192.0.2.0/24 dev lo
ip route add local 198.18.0.0/15 dev lo
ip link add one type veth peer name two
ip address add 198.51.100.1/24 dev one
ip link set one up
ip link set two up
nft -f /rules
{DNSMASQ}
systemctl start resolved pyegress-names.timer

systemctl start pyegress
echo "start $?: $(property ActiveState) $(property SubState)"
main=$(property MainPID)
echo "runs as $(stat -c %U /proc/$main), / is $(awk '$5 == "/" {{print substr($6, 1, 2)}}' /proc/$main/mountinfo)"
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/$main/status
echo "nice $(sed 's/.*) //' /proc/$main/task/*/stat | cut -d ' ' -f 17 | sort -u)"
echo >/dev/udp/192.0.2.1/1001
wait_for logged 1001

systemctl reload pyegress
echo "reload $?"
echo >/dev/udp/192.0.2.1/1002
wait_for logged 1002
echo 'ignore-port = 5' >/etc/pyegress/pyegress.toml
systemctl reload pyegress
wait_for warned
cat {LOG}

logrotate --force /etc/logrotate.d/pyegress
echo "rotate $?"
wait_for test -e {LOG}
echo >/dev/udp/192.0.2.1/1003
wait_for logged 1003
cat {LOG}
stat -c 'log %a %U' {LOG}

busybox nslookup {DNS_NAME} 127.0.0.53 >/dev/null
echo >/dev/udp/{DNS_ADDRESS}/1004
wait_for named 1004
tail -n 1 {LOG}

wait_for allowed {NAME_SETS[HOSTS_NAME]} {HOSTS_ADDRESS}
wait_for allowed {NAME_SETS[DNS_NAME]} {DNS_ADDRESS}
wait_for idle
echo "refreshed: $(property Result pyegress-names)"
nft flush set inet pyegress {NAME_SETS[DNS_NAME]}
systemctl start pyegress-names-follow
echo "follow $?: $(property ActiveState pyegress-names-follow)"
busybox nslookup {DNS_NAME} 127.0.0.53 >/dev/null
wait_for allowed {NAME_SETS[DNS_NAME]} {DNS_ADDRESS}
systemctl stop pyegress-names-follow
echo "stop $?: $(property Result pyegress-names-follow)"

beat=$(property WatchdogTimestampMonotonic)
wait_for beaten
test "$(property MainPID)" = $main && echo "restarts $(property NRestarts)"
echo "status: $(property StatusText)"
systemctl stop pyegress
echo "stop $?: $(property Result) $(property ExecMainStatus)"
for unit in pyegress pyegress-names pyegress-names-follow; do
journalctl -q -o json --output-fields=MESSAGE,PRIORITY _SYSTEMD_UNIT=$unit.service
done
"""


def test_shipped_units(tmp_path: Path) -> None:
    """The audit starts, reloads, has its logs rotated, lives and stops, as no root and with little that it may do.

    Names that systemd-resolved was asked for are in its records; the timer and the follower keep the sets of names.
    """
    wheels = list(WHEELHOUSE.glob("pyegress-*.whl"))
    if not wheels:
        pytest.skip("no wheel: `make wheelhouse`")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    given = ("--no-index", "--find-links", WHEELHOUSE, "--target", tmp_path / "application")
    run(*pip, *given, wheels[0], cwd=tmp_path)
    files = {
        "/usr/local/bin/pyegress": PROGRAM,
        "/etc/pyegress/pyegress.toml": CONFIG,
        **{f"/etc/systemd/system/{path.name}": path.read_text() for path in UNITS.iterdir()},
        "/etc/systemd/system/resolved.service": RESOLVED,
        "/etc/systemd/resolved.conf": RESOLVED_CONF,
        "/etc/resolv.conf": "nameserver 127.0.0.53\n",
        "/etc/hosts": HOSTS,
        "/rules": RULES,
        "/etc/logrotate.d/pyegress": LOGROTATE.read_text(),
    }
    try:
        shutil.copy(resolved.program(), tmp_path / "application/systemd-resolved")
        said = systemdguest.boot(SCRIPT, tmp_path / "application", files, tmp_path, timeout_s=400)
    except Unavailable as error:
        pytest.skip(f"no guest with systemd: {error}")
    assert [line for line in said.splitlines() if not line.startswith("{")] == [
        "start 0: active running",
        "runs as pyegress, / is ro",
        f"CapEff:\t{1 << Capability.DAC_READ_SEARCH:016x}",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "nice -4",
        "reload 0",
        "rotate 0",
        "log 640 pyegress",
        "refreshed: success",
        "follow 0: active",
        "stop 0: success",
        "restarts 0",
        "status: 4 connections",
        "stop 0: success 0",
    ], said
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    logged = [each for each in found if "dest_port" in each]
    assert [each["dest_port"] for each in logged] == [1001, 1002, 1003, 1004]
    names = [(each["dest_names"], each["dest_name_sources"]) for each in logged if "dest_names" in each]
    assert names == [([DNS_NAME], ["dns"])]
    for each in logged:
        process = each["process"]
        assert (process["exe"], process["user"], process["unit"]) == (
            "/usr/bin/bash",
            "root",
            "script.service",
        )
    told = [(each["PRIORITY"], each["MESSAGE"]) for each in found if "MESSAGE" in each]
    assert ("6", "pyegress: observing with ebpf; press ctrl-c to stop") in told
    assert ("6", "pyegress: 4 connections") in told
    assert ("6", "pyegress: 2 of 2 names refreshed: 2 addresses added for their time") in told
    assert ("6", "pyegress: following 2 names; press ctrl-c to stop") in told
    assert any(text.endswith(" 1 addresses added for their time, 0 failed") for _, text in told)
    assert {text.partition(": ignore-port:")[0] for level, text in told if level < "6"} == {
        "pyegress: /etc/pyegress/pyegress.toml"
    }
