# SPDX-License-Identifier: MIT
"""The whole program on kernels of distributions: what it may do once it has given up its rights is enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_run_command import OTHER_PORT, PORT, audit, config, seen, sender

HERE = "198.18.0.1"


@pytest.mark.guest("6.1", "6.12")
@pytest.mark.parametrize("kind", ["fentry", "kprobe", "cgroup"])
def test_audit_and_changed_filters(kind: str, tmp_path: Path) -> None:
    """Programs are named, and the kernel's tables changed, by threads that are left with few capabilities."""
    before, after = config(ignore_port=[OTHER_PORT]), config(ignore_port=[OTHER_PORT], ignore_cidr=[HERE])
    with (
        audit(tmp_path, before, "-I", f"ebpf:attach:{kind}") as running,
        sender(PORT, HERE) as shown,
        sender(OTHER_PORT, HERE) as hidden,
    ):
        shown.send(3)
        hidden.send(3)
        running.reload(after, "ebpf: changed: ")
        shown.send(2)
        records = running.end()
    assert seen(records) == {(HERE, PORT): 3}
    assert {record["attribution"] for record in records} == {"kernel"}
    assert running.counted(f"by ignore-port:{OTHER_PORT}") == 3
    assert running.counted("by ignore-cidr:") == 2
