# SPDX-License-Identifier: MIT
"""Names are completed and scripts told only where the arguments leave no doubt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.attribute.names import full_name, script_of, split_args, user_name

CUT = "averyverylongna"
PYTHON = "/usr/bin/python3.11"
BASH = "/usr/bin/bash"


@pytest.mark.parametrize(
    ("comm", "args", "exe", "name"),
    [
        ("curl", ["curl", "http://a/"], "/usr/bin/curl", "curl"),
        ("curl", [], None, "curl"),
        ("curl", ["wget"], "/usr/bin/curl-8", "curl"),
        ("", [], None, ""),
        ("", [""], "/", ""),
        (CUT, [f"{CUT}me"], f"/opt/{CUT}me", f"{CUT}me"),
        (CUT, [], f"/opt/{CUT}me", f"{CUT}me"),
        (CUT, ["/usr/bin/python3", f"/opt/{CUT}me.py", "-v"], PYTHON, f"{CUT}me.py"),
        (CUT, ["/usr/bin/python3", "-u", f"/opt/{CUT}me.py"], PYTHON, f"{CUT}me.py"),
        (CUT, ["/usr/bin/python3", "-u", "x", f"/opt/{CUT}me.py"], PYTHON, CUT),
        (CUT, [f"/opt/{CUT}me"], PYTHON, f"{CUT}me"),
        (CUT, [f"{CUT}me and one argument"], PYTHON, f"{CUT}me and one argument"),
        (CUT, [f"other {CUT}"], "/usr/bin/other", CUT),
        (CUT, ["other"], "/usr/bin/other", CUT),
        (CUT, ["", "", ""], "", CUT),
        (CUT, [f"/{CUT}me/"], None, CUT),
        (CUT, [], None, CUT),
        ("caf\u00e9-name-cuts", ["x"], "/opt/caf\u00e9-name-cuts-so", "caf\u00e9-name-cuts-so"),
        ("12345678901234\udcc3", ["x"], "/opt/12345678901234\u00e9", "12345678901234\u00e9"),
        ("12345678901234\udcff", ["12345678901234\udcff\udcfe"], None, "12345678901234\udcff\udcfe"),
        ("12345678901234", ["x"], "/opt/12345678901234more", "12345678901234"),
        ("\u00e9" * 7, ["x"], "/opt/" + "\u00e9" * 8, "\u00e9" * 7),
    ],
)
def test_full_name(comm: str, args: list[str], exe: str | None, name: str) -> None:
    """A name that fills the kernel's 15 bytes is completed by the program or one of its first arguments."""
    assert full_name(comm, args, exe, False) == name


@pytest.mark.parametrize(
    ("comm", "name"),
    [
        ("kworker/3:1", "kworker"),
        ("kworker/u8:0", "kworker"),
        ("kworker/u16:3-ev", "kworker"),
        ("migration/0", "migration"),
        ("kthreadd", "kthreadd"),
        ("123456789012345", "123456789012345"),
        ("", ""),
    ],
)
def test_kernel_thread_name(comm: str, name: str) -> None:
    """Kernel threads that do the same work have the same name."""
    assert full_name(comm, [], None, True) == name


def test_program_named_like_a_kernel_thread_keeps_its_name() -> None:
    """Whether it is one is the kernel's word and not the name's."""
    assert full_name("kworker/3:1", ["kworker/3:1"], "/tmp/x", False) == "kworker/3:1"


# What execve(2) makes of `./job.sh`: the file's name as comm, the interpreter, at most one option, the path.
RUN_BY_NAME: list[tuple[str, list[str], str, str | None]] = [
    ("job.sh", ["/bin/sh", "./job.sh"], "/usr/bin/dash", "./job.sh"),
    ("job.py", ["/usr/bin/python3", "-u", "/opt/job.py"], PYTHON, "/opt/job.py"),
    ("job.py", ["/usr/bin/python3", "-u -X dev", "/opt/job.py", "job.py"], PYTHON, "/opt/job.py"),
    ("job", ["/usr/bin/awk", "-f", "bin/job", "/etc/passwd"], "/usr/bin/mawk", "bin/job"),
    ("job.sh", ["/bin/bash", "-c", "./job.sh"], BASH, "./job.sh"),
    (CUT, ["/bin/sh", f"/opt/{CUT}me.sh", "x"], BASH, f"/opt/{CUT}me.sh"),
    ("12345678901234\udcc3", ["/bin/sh", "./12345678901234\u00e9"], BASH, "./12345678901234\u00e9"),
    ("\udcff\udcfe", ["/bin/sh", "/tmp/\udce9/\udcff\udcfe"], BASH, "/tmp/\udce9/\udcff\udcfe"),
    ("pip", [PYTHON, "/usr/bin/pip", "install", "x"], PYTHON, "/usr/bin/pip"),
    # Behind the third argument the kernel puts no script: it is one of the program's own.
    ("job.sh", ["renamed", "a", "b", "/opt/job.sh"], "/usr/bin/other", None),
    ("-job", ["/bin/sh", "-job"], BASH, None),
]
GIVEN: list[tuple[str, list[str], str, str | None]] = [
    ("python3", ["python3", "x.py"], PYTHON, "x.py"),
    ("python3", ["python3", "-u", "x.py"], PYTHON, "x.py"),
    ("python3", ["python3", "-u", "-B", "/opt/x.py", "-v"], PYTHON, "/opt/x.py"),
    ("python3", ["python3", "-uB", "x.py"], PYTHON, "x.py"),
    ("python", ["python", "x.py"], "/opt/env/bin/python", "x.py"),
    ("python3", ["python3", "-m", "http.server"], PYTHON, None),
    ("python3", ["python3", "-c", "import this"], PYTHON, None),
    ("python3", ["python3", "-uc", "import this", "x.py"], PYTHON, None),
    ("python3", ["python3", "-X", "dev", "x.py"], PYTHON, None),
    ("python3", ["python3", "-W", "error", "x.py"], PYTHON, None),
    ("python3", ["python3", "-"], PYTHON, None),
    ("python3", ["python3", "--", "x.py"], PYTHON, None),
    ("python3", ["python3", "--version"], PYTHON, None),
    ("python3", ["python3", "-u"], PYTHON, None),
    ("python3", ["python3", "", "x.py"], PYTHON, None),
    ("python3", ["python3", "/tmp/\udcff\n\x1b[31m.py"], PYTHON, "/tmp/\udcff\n\x1b[31m.py"),
    ("bash", ["bash", "script.sh"], BASH, "script.sh"),
    ("bash", ["bash", "-eu", "script.sh"], BASH, "script.sh"),
    ("bash", ["bash", "-e", "+x", "script.sh", "-c"], BASH, "script.sh"),
    ("bash", ["bash", "-c", "curl http://a/"], BASH, None),
    ("bash", ["bash", "-ec", "curl http://a/", "script.sh"], BASH, None),
    ("bash", ["bash", "-o", "pipefail", "script.sh"], BASH, None),
    ("bash", ["bash", "-s", "argument"], BASH, None),
    ("bash", ["bash", "--rcfile", "x", "script.sh"], BASH, None),
    ("bash", ["-bash"], BASH, None),
    ("bash", ["-bash", "-l"], BASH, None),
    ("sh", ["sh", "/etc/cron.daily/apt"], "/usr/bin/dash", "/etc/cron.daily/apt"),
    ("zsh", ["zsh", "-f", "s.zsh"], "/usr/bin/zsh", "s.zsh"),
    ("perl", ["perl", "s.pl"], "/usr/bin/perl", "s.pl"),
    ("perl", ["perl", "-w", "s.pl"], "/usr/bin/perl", "s.pl"),
    ("perl", ["perl", "-wT", "s.pl"], "/usr/bin/perl5.36", "s.pl"),
    ("perl", ["perl", "-e", "print 1"], "/usr/bin/perl", None),
    ("perl", ["perl", "-I", "lib", "s.pl"], "/usr/bin/perl", None),
    ("node", ["node", "app.js"], "/usr/bin/node", "app.js"),
    ("node", ["node", "/srv/app.js", "--port", "80"], "/usr/bin/node", "/srv/app.js"),
    ("node", ["node", "-e", "fetch('http://a/')"], "/usr/bin/node", None),
    ("node", ["node", "--require", "x", "app.js"], "/usr/bin/node", None),
    ("MainThread", ["node", "app.js"], "/usr/bin/node", "app.js"),
    ("ruby", ["ruby", "-w", "x.rb"], "/usr/bin/ruby3.1", "x.rb"),
    ("php", ["php", "artisan", "serve"], "/usr/bin/php8.2", "artisan"),
    ("php", ["php", "-S", "[::]:80", "x.php"], "/usr/bin/php8.2", None),
]
NO_INTERPRETER: list[tuple[str, list[str], str, str | None]] = [
    # A program that is called as what it is, though its file has another name, and names itself in its arguments.
    ("sh", ["sh", "-c", "sh"], "/usr/bin/dash", None),
    ("wget", ["wget", "http://a/wget"], "/bin/busybox", None),
    ("", ["curl", "http://a/"], "/usr/bin/curl", None),
    ("", ["python3", ""], PYTHON, None),
    ("python3", ["python3", "-h", "x.py"], PYTHON, None),
    ("curl", ["curl", "http://a/x.py"], "/usr/bin/curl", None),
    ("curl", ["curl", "/tmp/curl"], "/usr/bin/curl", None),
    # One file under many names: the file is called otherwise, and still no interpreter.
    ("cat", ["cat", "/tmp/cat"], "/bin/busybox", None),
    ("python3x", ["python3x", "x.py"], "/usr/bin/python3x", None),
    ("mybash", ["bash", "x.sh"], "/tmp/mybash", None),
    ("notpython3.11", ["python3", "x.py"], "/opt/notpython3.11", None),
]


@pytest.mark.parametrize(("comm", "args", "exe", "script"), [*RUN_BY_NAME, *GIVEN, *NO_INTERPRETER])
def test_script(comm: str, args: list[str], exe: str, script: str | None) -> None:
    """The script as the arguments name it; none where they could mean something else."""
    assert script_of(comm, args, exe) == script


@pytest.mark.parametrize("exe", [PYTHON, BASH, "/usr/bin/curl", "", "/"])
@pytest.mark.parametrize("args", [[], [""], ["python3"], ["", ""], ["python3", ""]])
def test_no_script_without_an_argument(args: list[str], exe: str) -> None:
    """Nothing or empty arguments name none."""
    assert script_of(exe.rpartition("/")[2], args, exe) is None
    assert script_of("job.sh", args, exe) is None


def test_no_script_without_a_program() -> None:
    """Where the interpreter isn't known an argument may mean anything."""
    assert script_of("job.sh", ["/bin/sh", "./job.sh"], None) is None
    assert script_of("python3", ["python3", "x.py"], None) is None


def test_first_argument_may_lie() -> None:
    """What a program is comes from its file, and not from the name it was called by."""
    assert script_of("curl", ["python3", "harmless.py"], "/usr/bin/curl") is None
    assert script_of("python3", ["curl", "x.py"], PYTHON) == "x.py"


NAME = "job-with-a-long-name.sh"


@pytest.mark.parametrize(
    "bang", ["#!/bin/sh", "#!/bin/sh -e", f"#!{sys.executable}", f"#!{sys.executable} -u"]
)
@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "given"])
def test_real_script(bang: str, by_name: bool, tmp_path: Path) -> None:
    """What the kernel makes of a script's first line is what is expected here."""
    script = tmp_path / NAME
    is_python = "python" in bang
    script.write_text(f"{bang}\n{'print(flush=True); input()' if is_python else 'echo; read line; :'}\n")
    script.chmod(0o755)
    given = [*bang.removeprefix("#!").split(), str(script)]
    command = [str(script)] if by_name else given
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        proc = Path(f"/proc/{process.pid}")
        comm = os.fsdecode((proc / "comm").read_bytes().removesuffix(b"\n"))
        args = os.fsdecode((proc / "cmdline").read_bytes()).rstrip("\0").split("\0")
        exe = str((proc / "exe").readlink())
        process.communicate(b"\n")
    assert script_of(comm, args, exe) == str(script)
    if by_name:
        assert comm == NAME[:15]
        assert full_name(comm, args, exe, False) == NAME


@pytest.mark.parametrize("uid", [4294967293, 4294967295])
def test_user_without_a_name(uid: int) -> None:
    """The number stands for a user who has no name."""
    assert user_name(uid) == str(uid)


def test_user_with_a_name() -> None:
    """Root has one everywhere."""
    assert user_name(0) == "root"


@pytest.mark.parametrize(
    ("args", "split"),
    [
        (None, []),
        (b"", []),
        (b"\0", [""]),
        (b"curl\0", ["curl"]),
        (b"a\0b c\0", ["a", "b c"]),
        (b"a\0\0b\0", ["a", "", "b"]),
        (b"cut", ["cut"]),
        (b"\xff\0", ["\udcff"]),
    ],
)
def test_arguments(args: bytes | None, split: list[str]) -> None:
    """Each ends with NUL, and may have any bytes."""
    assert split_args(args) == split
