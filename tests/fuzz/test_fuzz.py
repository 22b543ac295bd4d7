# SPDX-License-Identifier: MIT
"""The parsers in C, under the sanitizers for addresses and undefined behaviour, with changed files and packets.

libFuzzer looks for inputs that reach new code; a failure comes again with the same seed. For longer runs, from the top
folder: `clang -g -O1 -fsanitize=fuzzer,address,undefined -I pyegress/_native tests/fuzz/capture.c
pyegress/_native/{capture,packet}.c && ./a.out tests/data/pcaps`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.decode.frames import PCAP_MODIFIED, enhanced, interface, ipv4, pcap, section, tcp
from tests.decode.test_packet import SEEDS as PACKETS
from tests.decode.test_packet import nflog

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parents[1] / "pyegress" / "_native"
CAPTURES = [path.read_bytes() for path in sorted((HERE.parent / "data" / "pcaps").iterdir())]
CAPTURES += [
    pcap(ipv4(tcp()), ipv4(tcp()), magic=PCAP_MODIFIED, order=">"),
    section() + interface(_2=b"lo") + enhanced(ipv4(tcp()), _2=bytes((2, 0, 0, 0))) * 3,
    pcap(*PACKETS, link_type=1),
    pcap(nflog(ipv4(tcp())), link_type=239),
]
FLAGS = (
    "-g",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fsanitize=fuzzer,address,undefined",
    "-fno-sanitize-recover=all",
)
RUNS = {"packet": 200_000, "capture": 1_000_000}


def built(folder: Path, target: str) -> Path:
    """The fuzzer of one target; skips the test where clang has none."""
    program = folder / target
    sources = (HERE / f"{target}.c", NATIVE / "packet.c", NATIVE / "capture.c")
    command = ("clang", *FLAGS, f"-I{NATIVE}", *map(str, sources), "-o", str(program))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "libclang_rt" in done.stderr and not os.environ.get("CI"):
        pytest.skip("clang has no fuzzer here: apt-get install libclang-rt-dev")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("target", RUNS)
def test_nothing_that_c_leaves_undefined_happens(tmp_path: Path, target: str) -> None:
    """No input makes C read or write where it must not, leak, or find other packets in other pieces."""
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for number, data in enumerate(PACKETS if target == "packet" else CAPTURES):
        (seeds / str(number)).write_bytes(data)
    command = (str(built(tmp_path, target)), f"-runs={RUNS[target]}", "-seed=1", "-max_len=4096", str(seeds))
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {RUNS[target]} runs" in done.stderr
