# SPDX-License-Identifier: MIT
"""What is given to others, on a machine of theirs: a bare virtual environment, no compiler, no libbpf, no network."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import traffic
from tests.test_dist import WHEELHOUSE, run


@pytest.mark.guest("6.12")
@pytest.mark.usefixtures("routes")
def test_installed_wheel_audits_and_leaves_nothing(tmp_path: Path) -> None:
    """It is installed with what it needs, sees who connects where, and detaches."""
    wheels = list(WHEELHOUSE.glob("pyegress-*.whl"))
    if not wheels:
        pytest.skip("no wheel: `make wheelhouse`")
    bare, log = tmp_path / "bare", tmp_path / "log"
    # In an emulated guest uv takes a third of pip's time.
    run(
        *(Path(sys.executable).with_name("uv"), "tool", "install", "--quiet", "--python", sys.executable),
        *("--offline", "--no-index", "--find-links", WHEELHOUSE, wheels[0]),
        cwd=tmp_path,
        UV_TOOL_DIR=str(tmp_path / "tools"),
        UV_TOOL_BIN_DIR=str(bare),
        UV_CACHE_DIR=str(tmp_path / "cache"),
    )
    before = run("bpftool", "link", cwd=tmp_path)

    ready, says_ready = os.pipe()
    command = [str(bare / "pyegress"), "run", "-i", "ebpf", "-o", "json", "-O", f"json:file:{log}"]
    program = subprocess.Popen(
        [*command, "--ready-fd", str(says_ready)],
        cwd=tmp_path,
        env={"PATH": str(bare), "PYTHONDONTWRITEBYTECODE": "1"},
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[says_ready],
    )
    os.close(says_ready)
    assert os.read(ready, 100) == b"ready\n", program.communicate()
    os.close(ready)
    libraries = set(re.findall(r"/\S+/lib(?:bpf|elf|z)\b\S*", Path(f"/proc/{program.pid}/maps").read_text()))
    traffic.run("tcp", "192.0.2.1", 443)
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=60)

    assert program.returncode == 0, said
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(r["dest_ip"], r["dest_port"], r["process"]["comm"]) for r in records] == [
        ("192.0.2.1", 443, "traffic")
    ]
    bundled = {Path(name) for name in libraries if "pyegress" in name}
    assert {path.parent.name for path in bundled} == {"pyegress.libs"}
    assert {path.name.split("-")[0] for path in bundled} == {"libbpf", "libelf", "libz"}
    assert not any("libbpf" in name or "libelf" in name for name in libraries - set(map(str, bundled)))
    assert run("bpftool", "link", cwd=tmp_path) == before
