# SPDX-License-Identifier: MIT
"""`pyegress run` on the real kernel: a config file that is read again, counts that add up, another name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60
PORT, OTHER_PORT = 21000 + os.getpid() % 20000, 41000 + os.getpid() % 20000
# An own network namespace in which these networks are here: nothing that is sent there gets out.
_LAID = 'ip link set lo up && ip route add local 198.18.0.0/15 dev lo && exec "$@"'
ISOLATED = ("unshare", "--net", "sh", "-c", _LAID, "sh")
"""Before a command: has it in a network of its own, where 198.18.0.0/15 is local."""
SENDER = """
import json, socket, sys
sent = dict.fromkeys(sys.argv[2:], 0)
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for line in sys.stdin:
    for _ in range(int(line)):
        for address in sent:
            try:
                own.sendto(b"", (address, int(sys.argv[1])))
            except ConnectionRefusedError:
                pass
            sent[address] += 1
    print(json.dumps(sent), flush=True)
"""


class Audit:
    """An audit with a config file, in a process of its own."""

    def __init__(self, folder: Path, config: str, *words: str) -> None:
        self.config, self.log = folder / "pyegress.toml", folder / "log"
        self.config.write_text(config)
        ready, writing = os.pipe()
        command = [sys.executable, "-m", "pyegress", "run", "-c", str(self.config), "-o", "json"]
        command += ["-O", f"json:file:{self.log}", "--ready-fd", str(writing), *words]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, pass_fds=[writing], start_new_session=True
        )
        os.close(writing)
        self.said: list[str] = []
        started = os.read(ready, 100)
        os.close(ready)
        assert started == b"ready\n", self.process.communicate()

    def reload(self, config: str, until: str) -> str:
        """Write and read it again; the line that says what came of it."""
        self.config.write_text(config)
        self.process.send_signal(signal.SIGHUP)
        return self.await_line(until)

    def await_line(self, text: str) -> str:
        """Read stderr up to a line that holds the text."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if text in line:
                return line
        raise AssertionError(f"ended without {text!r}: {self.said}")

    def end(self) -> list[dict[str, object]]:
        """Stop; what was written."""
        self.process.terminate()
        _, err = self.process.communicate(timeout=PATIENCE_S)
        self.said += err.splitlines(keepends=True)
        assert self.process.returncode == 0, self.said
        assert "Traceback" not in "".join(self.said)
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def counted(self, reason: str) -> int:
        """What was said at the end of a reason."""
        return sum(
            int(count)
            for count in re.findall(rf"^pyegress: [a-z]+: ([0-9]+) {reason}", "".join(self.said), re.M)
        )


@contextmanager
def audit(folder: Path, config: str, *words: str) -> Iterator[Audit]:
    """One that ends with the block."""
    running = Audit(folder, config, *words)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()


class Sender:
    """A program that sends to all its addresses in turn, as often as it is told."""

    def __init__(self, port: int, *addresses: str) -> None:
        words = [*ISOLATED, sys.executable, "-c", SENDER, str(port), *addresses]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, rounds: int) -> None:
        """Have it send."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{rounds}\n")
        self.process.stdin.flush()

    def sent(self) -> dict[str, int]:
        """How often by now, once the rounds are over."""
        assert self.process.stdout is not None
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found

    def send(self, rounds: int) -> dict[str, int]:
        """Both."""
        self.begin(rounds)
        return self.sent()

    def end(self) -> None:
        """Let it end."""
        self.process.communicate(timeout=PATIENCE_S)


@contextmanager
def sender(port: int, *addresses: str) -> Iterator[Sender]:
    """One that ends with the block."""
    running = Sender(port, *addresses)
    try:
        yield running
    finally:
        running.end()


def seen(records: list[dict[str, object]]) -> Counter[tuple[object, object]]:
    """Connections by address and port."""
    found: Counter[tuple[object, object]] = Counter()
    for record in records:
        if record["dest_port"] in (PORT, OTHER_PORT):
            found[record["dest_ip"], record["dest_port"]] += int(str(record.get("count", 1)))
    return found


def config(**filters: Sequence[object]) -> str:
    """A file with these filters, in which nothing else is observed than what a test sends."""
    lines = [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in filters.items()]
    return "\n".join(["[inputs.ebpf]", "window = '0'", "quiet = true", "[filters]", *lines])


@needs_root
def test_file_is_read_again(tmp_path: Path) -> None:
    """Newly ignored is no longer seen, no longer ignored is; a mistake and what needs a restart change nothing."""
    here = ["198.18.0.0/15"]
    with (
        sender(PORT, "198.18.0.1") as one,
        sender(OTHER_PORT, "198.18.0.1") as other,
        audit(tmp_path, config(only_cidr=here, ignore_port=[PORT])) as run,
    ):
        one.send(3), other.send(5)
        assert "ignore-port" in run.reload(config(only_cidr=here, ignore_port=[OTHER_PORT]), "ebpf: changed")
        one.send(7), other.send(11)
        wrong = config(only_cidr=here, ignore_port=[PORT, "http"])
        said = run.reload(wrong, "going on as before")
        assert f"{run.config}: filters.ignore-port = http: must be a port" in said
        run.reload(
            config(only_cidr=here, ignore_prot=[PORT]), "did you mean 'ignore-port'?; going on as before"
        )
        one.send(13), other.send(17)
        late = config(only_cidr=here, ignore_exe=["/nowhere"]).replace("window = '0'", "window = '5s'")
        assert f"{run.config}: inputs.ebpf.window: needs a restart" in run.reload(late, "needs a restart")
        run.await_line("ebpf: changed: ")
        one.send(19), other.send(23)
        run.reload(config(only_port=[OTHER_PORT]), "ebpf: changed: only-cidr, only-port, ignore-exe")
        one.send(29), other.send(31)
        run.log.rename(tmp_path / "log.1")
        run.reload(config(only_port=[PORT]), "ebpf: changed: only-port")
        one.send(37), other.send(41)
        records = run.end()
    before = [json.loads(line) for line in (tmp_path / "log.1").read_text().splitlines()]
    assert seen([*before, *records]) == {
        ("198.18.0.1", PORT): 7 + 13 + 19 + 37,
        ("198.18.0.1", OTHER_PORT): 5 + 23 + 31,
    }
    assert seen(records)["198.18.0.1", PORT] >= 37
    assert run.counted(f"by ignore-port:{PORT}") == 3
    assert run.counted(f"by ignore-port:{OTHER_PORT}") == 11 + 17


VARIANTS: list[dict[str, list[str]]] = [
    {"ignore_cidr": ["198.18.9.0/24"]},
    {"ignore_cidr": ["198.18.0.0/16"]},
    {"only_cidr": ["198.19.0.0/16"]},
    {"only_cidr": ["198.18.0.0/15"], "ignore_cidr": ["198.18.9.9", "198.18.8.0/24"]},
]


@needs_root
def test_nothing_is_lost_or_let_through_while_it_is_read_again_and_again(tmp_path: Path) -> None:
    """What all variants hide is never seen, what all show always, and the rest is seen or counted as hidden."""
    always, never, sometimes = "198.19.0.1", "198.18.9.9", "198.18.7.7"

    def variant(number: int) -> str:
        return config(only_port=[PORT], **VARIANTS[number % len(VARIANTS)])

    with sender(PORT, always, never, sometimes) as traffic, audit(tmp_path, variant(0)) as run:
        traffic.begin(20_000)
        for number in range(1, 25):
            run.reload(variant(number), "ebpf: changed: ")
        sent = traffic.sent()
        found = seen(run.end())
    assert run.counted("ebpf: ring buffer full") == 0
    assert found[always, PORT] == sent[always]
    assert found[never, PORT] == 0
    hidden = run.counted("by ignore-cidr:") + run.counted("outside only-cidr")
    assert found.total() + hidden == sum(sent.values())


@needs_root
def test_filters_by_process_change_too(tmp_path: Path) -> None:
    """A program that was judged already is hidden, and seen again."""
    here = ["198.18.0.0/15"]
    shown = config(only_cidr=here, only_port=[PORT])
    name = Path(sys.executable).name
    with sender(PORT, "198.18.0.1") as one, audit(tmp_path, shown) as run:
        one.send(100)
        for key, value in (("ignore_comm", name), ("ignore_cmdline", "sendto"), ("only_comm", "other")):
            run.reload(config(only_cidr=here, only_port=[PORT], **{key: [value]}), "ebpf: changed: ")
            one.send(1000)
            run.reload(shown, "ebpf: changed: ")
            one.send(10)
        found = seen(run.end())
    assert found == {("198.18.0.1", PORT): 130}
    assert run.counted("by ignore-comm:") == run.counted("by ignore-cmdline:") == 1000
    assert run.counted("outside only-comm") == 1000


@needs_root
def test_another_name(tmp_path: Path) -> None:
    """ps and pgrep show it, with nothing of the command line."""
    with audit(tmp_path, config(only_port=[PORT]), "-R", "kworker/0:1-events") as run:
        pid = str(run.process.pid)
        shown = subprocess.run(["ps", "-o", "args=", "-p", pid], capture_output=True, text=True, check=True)
        comm = subprocess.run(["ps", "-o", "comm=", "-p", pid], capture_output=True, text=True, check=True)
        found = subprocess.run(
            ["pgrep", "-f", "^kworker/0:1-events$"], capture_output=True, text=True, check=True
        )
        run.end()
    assert shown.stdout.strip() == "kworker/0:1-events"
    assert comm.stdout.strip() == "kworker/0:1-eve"
    assert pid in found.stdout.split()
