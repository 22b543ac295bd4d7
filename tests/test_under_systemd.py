# SPDX-License-Identifier: MIT
"""The shipped unit under a running systemd, with all of its hardening, in a guest that has one as its init."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pyegress.privileges import Capability
from tests import systemdguest
from tests.guest import Unavailable
from tests.test_dist import WHEELHOUSE, run

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "deploy/systemd/pyegress.service"
LOGROTATE = ROOT / "deploy/logrotate/pyegress"
LOG = "/var/log/pyegress/egress.log"
PROGRAM = f"""#!{systemdguest.PYTHON}/bin/{Path(sys.executable).resolve().name}
import sys
sys.path.insert(0, {systemdguest.APPLICATION!r})
from pyegress.cli import main
main()
"""
CONFIG = f"""
[inputs.ebpf]
ignore-port = [53]
[outputs.json]
file = "{LOG}"
"""
SCRIPT = f"""
property() {{ systemctl show pyegress -p "$1" --value; }}
wait_for() {{ while ! "$@"; do sleep 0.2; done; }}
logged() {{ grep -qs "dest_port.:$1," {LOG}; }}
warned() {{ journalctl -q -u pyegress -p warning | grep -q pyegress.toml; }}
beaten() {{ test "$(property WatchdogTimestampMonotonic)" != $beat; }}
ip link set lo up
ip route add local 192.0.2.0/24 dev lo

systemctl start pyegress
echo "start $?: $(property ActiveState) $(property SubState)"
main=$(property MainPID)
echo "runs as $(stat -c %U /proc/$main), / is $(awk '$5 == "/" {{print substr($6, 1, 2)}}' /proc/$main/mountinfo)"
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/$main/status
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

beat=$(property WatchdogTimestampMonotonic)
wait_for beaten
test "$(property MainPID)" = $main && echo "restarts $(property NRestarts)"
echo "status: $(property StatusText)"
systemctl stop pyegress
echo "stop $?: $(property Result) $(property ExecMainStatus)"
journalctl -q -o json --output-fields=MESSAGE,PRIORITY _SYSTEMD_UNIT=pyegress.service
"""


def test_shipped_unit(tmp_path: Path) -> None:
    """It starts, reloads, has its logs rotated, lives and stops, as no root and with little that it may do."""
    wheels = list(WHEELHOUSE.glob("pyegress-*.whl"))
    if not wheels:
        pytest.skip("no wheel: `make wheelhouse`")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    given = ("--no-index", "--find-links", WHEELHOUSE, "--target", tmp_path / "application")
    run(*pip, *given, wheels[0], cwd=tmp_path)
    files = {
        "/usr/local/bin/pyegress": PROGRAM,
        "/etc/pyegress/pyegress.toml": CONFIG,
        "/etc/systemd/system/pyegress.service": UNIT.read_text(),
        "/etc/logrotate.d/pyegress": LOGROTATE.read_text(),
    }
    try:
        said = systemdguest.boot(SCRIPT, tmp_path / "application", files, tmp_path, timeout_s=400)
    except Unavailable as error:
        pytest.skip(f"no guest with systemd: {error}")
    assert [line for line in said.splitlines() if not line.startswith("{")] == [
        "start 0: active running",
        "runs as pyegress, / is ro",
        f"CapEff:\t{1 << Capability.DAC_READ_SEARCH:016x}",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "reload 0",
        "rotate 0",
        "log 640 pyegress",
        "restarts 0",
        "status: 3 connections",
        "stop 0: success 0",
    ], said
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    logged = [each for each in found if "dest_port" in each]
    assert [each["dest_port"] for each in logged] == [1001, 1002, 1003]
    for each in logged:
        process = each["process"]
        assert (process["exe"], process["user"], process["unit"]) == (
            "/usr/bin/bash",
            "root",
            "script.service",
        )
    told = [(each["PRIORITY"], each["MESSAGE"]) for each in found if "MESSAGE" in each]
    assert ("6", "pyegress: observing with ebpf; press ctrl-c to stop") in told
    assert ("6", "pyegress: 3 connections") in told
    assert {text.partition(": ignore-port:")[0] for level, text in told if level < "6"} == {
        "pyegress: /etc/pyegress/pyegress.toml"
    }
