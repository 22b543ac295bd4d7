# SPDX-License-Identifier: MIT
"""What the kernel offers, and the one cause that a failure is given."""

from __future__ import annotations

import errno
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyegress import kernel
from pyegress.privileges import Capability

ROOT = Path(__file__).resolve().parent.parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def python(code: str, *before: str) -> str:
    """What a program prints that has `kernel` imported, run by another command."""
    command = [*before, sys.executable, "-c", f"from pyegress import kernel\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_root
@pytest.mark.parametrize(
    ("dropped", "missing"),
    [
        ("-sys_admin,-bpf", ["CAP_BPF"]),
        ("-sys_admin,-perfmon", ["CAP_PERFMON"]),
        ("-bpf,-perfmon", []),
        ("-net_admin", ["CAP_NET_ADMIN"]),
        ("-all", ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]),
    ],
)
def test_missing_capabilities(dropped: str, missing: list[str]) -> None:
    """CAP_SYS_ADMIN includes what BPF needs, and nothing includes CAP_NET_ADMIN."""
    drop = ("setpriv", "--inh-caps=-all", f"--bounding-set={dropped}", "--")
    assert python("print(kernel.missing_capabilities())", *drop) == str(missing)


@needs_root
@pytest.mark.parametrize(
    ("dropped", "may"),
    [("-bpf", True), ("-sys_ptrace", False), ("-sys_admin,-dac_override", True), ("-all,+sys_ptrace", True)],
)
def test_may_trace_others(dropped: str, may: bool) -> None:
    """Only CAP_SYS_PTRACE gives that right: CAP_SYS_ADMIN does not include it."""
    drop = ("setpriv", "--inh-caps=-all", f"--bounding-set={dropped}", "--")
    assert python("print(kernel.may_trace_others())", *drop) == str(may)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, file: Path) -> None:
    """Let `kernel` read another file in place of the one file of /proc that it may read."""
    monkeypatch.setattr(kernel, "Path", {name: file}.__getitem__)


@pytest.mark.parametrize(
    ("status", "may"),
    [
        ("CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\n", True),
        ("CapPrm:\t0000000000080000\nCapEff:\t0000000000080000\n", True),
        ("CapPrm:\t000001ffffffffff\nCapEff:\t000001fffff7ffff\n", False),
        ("CapPrm:\t0000000000080000\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\n", False),
        ("Name:\tCapEff:\nCapPrm:\t000001ffffffffff\n", False),
        ("", False),
    ],
    ids=["all", "alone", "all others", "not in effect", "not told", "empty"],
)
def test_rights_are_those_in_effect(
    status: str, may: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that a process may take, or keeps for what it runs, are not yet its own."""
    (tmp_path / "status").write_text(status)
    stand_in(monkeypatch, "/proc/thread-self/status", tmp_path / "status")
    assert kernel.may_trace_others() is may


@needs_root
def test_who_may_trace_others_reads_where_their_programs_are() -> None:
    """The kernel itself agrees, about a process that has more rights than the reader."""
    code = "import os\nprint(kernel.may_trace_others(), end=' ')\n"
    code += f"try: print(bool(os.readlink('/proc/{os.getpid()}/exe')))\nexcept PermissionError: print(False)"
    for dropped, told in (("-sys_ptrace", "False False"), ("-net_raw", "True True")):
        assert python(code, "setpriv", "--inh-caps=-all", f"--bounding-set={dropped}", "--") == told


@needs_root
def test_run_without_rights_names_them_in_one_line() -> None:
    """A user without the capabilities is told which are missing and what to do, with exit code 1."""
    # Only reading anything is left to nobody, as the interpreter or the checkout may stand in a private folder.
    reading = "dac_read_search"
    nobody = (
        f"setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+{reading} --ambient-caps=+{reading}"
    )
    command = [*nobody.split(), sys.executable, "-m", "pyegress", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "missing CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF; run as root" in line


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("none [integrity] confidentiality\n", "integrity"),
        ("[none] integrity confidentiality\n", "none"),
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("", None),
    ],
)
def test_lockdown(text: str, mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word in brackets is the mode in force."""
    (tmp_path / "lockdown").write_text(text)
    monkeypatch.setattr(kernel, "LOCKDOWN", tmp_path / "lockdown")
    assert kernel.lockdown() == mode


def test_lockdown_is_unknown_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where securityfs is not mounted nothing is claimed."""
    monkeypatch.setattr(kernel, "LOCKDOWN", tmp_path / "absent")
    assert kernel.lockdown() is None


def test_has_btf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BTF is there where its file is."""
    monkeypatch.setattr(kernel, "BTF", tmp_path / "vmlinux")
    assert not kernel.has_btf()
    (tmp_path / "vmlinux").touch()
    assert kernel.has_btf()


@needs_root
def test_user_namespace() -> None:
    """Its root has all capabilities and no rights over BPF, so that is the cause."""
    if subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode:
        pytest.skip("no user namespace can be made here (a chroot, or forbidden)")
    code = "print(kernel.in_initial_user_namespace(), kernel.missing_capabilities())"
    code += "\nprint(kernel.explain({1}, ''))"
    told = python(code, "unshare", "--user", "--map-root-user")
    assert told == "False []\nthis is a user namespace, whose root has no rights over BPF; run on the host"
    assert kernel.in_initial_user_namespace()


@pytest.fixture
def sub_cgroup() -> Iterator[Path]:
    """A cgroup below the root of the hierarchy."""
    root = kernel.cgroup2_root()
    if root is None:
        pytest.skip("no cgroup v2 is mounted")
    made = root / f"pyegress-test-{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        made.rmdir()


def mounted(script: str, *arguments: Path | bytes) -> str:
    """What cgroup2_root says after a shell has mounted things for itself alone."""
    code = "from pyegress import kernel\nimport os\nprint(os.fsencode(kernel.cgroup2_root() or 'none'))"
    whole = f'set -e\numount -a -l -t cgroup2\n{script}\nexec "$PYTHON" -c "$CODE"'
    command: list[str | Path | bytes] = ["unshare", "--mount", "sh", "-c", whole, "sh", *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "CODE": code},
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_root
def test_cgroup2_root_is_a_cgroup_v2() -> None:
    """The kernel's own file system type agrees."""
    root = kernel.cgroup2_root()
    if root is None:
        pytest.skip("no cgroup v2 is mounted")
    command = ["stat", "--file-system", "--format=%T", str(root)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "cgroup2fs\n"


@needs_root
def test_cgroup2_root_is_none_where_none_is_mounted() -> None:
    """A mount of another type is not taken for one."""
    assert mounted("mount -t tmpfs cgroup2 /mnt") == "b'none'"


@needs_root
@pytest.mark.parametrize(
    "name", [b"plain", b"with space", b"back\\slash", "caf\u00e9".encode(), b"latin\xe9"]
)
def test_cgroup2_root_may_have_any_name(name: bytes, tmp_path: Path) -> None:
    """The kernel escapes four characters in octal; all other bytes stand for themselves."""
    mount = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(mount)).mkdir()
    assert mounted('mount -t cgroup2 none "$1"', mount) == repr(mount)


@needs_root
def test_mounts_with_any_name_are_no_obstacle(tmp_path: Path) -> None:
    """A mount of something else whose name is not UTF-8 stands in the same list."""
    other, mount = os.fsencode(tmp_path) + b"/\xff\xfe", tmp_path / "cgroup"
    Path(os.fsdecode(other)).mkdir()
    mount.mkdir()
    script = 'mount -t tmpfs none "$1"; mount -t cgroup2 none "$2"'
    assert mounted(script, other, mount) == repr(os.fsencode(mount))


@needs_root
def test_part_of_the_hierarchy_is_not_its_root(sub_cgroup: Path, tmp_path: Path) -> None:
    """Hooks on a bind mount of one cgroup would see only its processes, so the whole hierarchy is looked for."""
    part, whole = tmp_path / "part", tmp_path / "whole"
    part.mkdir()
    whole.mkdir()
    bind = f'mount -t cgroup2 none "$2"; mount --bind "$2/{sub_cgroup.name}" "$1"; umount "$2"; '
    assert mounted(bind + 'mount -t cgroup2 none "$2"', part, whole) == repr(os.fsencode(whole))


CONTROLLERS = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"


@pytest.mark.parametrize(
    ("lines", "has"),
    [
        ("cpu\t0\t90\t1\nmemory\t0\t90\t1\npids\t0\t90\t1\n", False),
        ("cpu\t2\t90\t1\nmemory\t4\t90\t1\npids\t12\t90\t1\n", True),
        ("memory\t0\t90\t1\npids\t10\t90\t1\n", True),
        ("memory\t10\t90\t1\npids\t0\t90\t1\n", True),
        ("cpu\t2\t90\t1\nnet_cls\t3\t1\t1\nmemory\t0\t90\t1\npids\t0\t90\t1\n", False),
        ("memory\t0\t1\t0\n", False),
        ("cpu\t2\t90\t1\n", False),
        ("memory_x\t3\t1\t1\nxpids\t4\t1\t1\n", False),
        ("", False),
    ],
    ids=["v2", "v1", "pids", "memory", "others", "disabled", "neither", "names like them", "none"],
)
def test_has_cgroup_v1(lines: str, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller on hierarchy 0 is the unified one's, or nobody's; those of no interest may be on v1."""
    (tmp_path / "cgroups").write_text(CONTROLLERS + lines)
    stand_in(monkeypatch, "/proc/cgroups", tmp_path / "cgroups")
    assert kernel.has_cgroup_v1() is has


def test_no_cgroup_v1_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without v1, or without cgroups, has no such list."""
    stand_in(monkeypatch, "/proc/cgroups", tmp_path / "absent")
    assert not kernel.has_cgroup_v1()


def test_cgroup_v1_of_this_host() -> None:
    """Each v1 hierarchy is a line with its controllers in the list of one's own cgroups (cgroups(7))."""
    own = Path("/proc/self/cgroup")
    if not own.exists():
        pytest.skip("the kernel has no cgroups")
    controllers = {name for line in own.read_text().splitlines() for name in line.split(":")[1].split(",")}
    assert kernel.has_cgroup_v1() is bool(controllers & {"pids", "memory"})


@pytest.mark.parametrize(
    ("code", "name"), [(1, "EPERM"), (-1, "EPERM"), (-22, "EINVAL"), (524, "errno 524"), (-524, "errno 524")]
)
def test_errno_name(code: int, name: str) -> None:
    """Positive or negative, and the kernel's own numbers as numbers."""
    assert kernel.errno_name(code) == name


FINE: dict[str, object] = {
    "missing_capabilities": [],
    "has_btf": True,
    "lockdown": "none",
    "in_initial_user_namespace": True,
    "counts_as_locked": True,
    "memlock_is_limited": False,
    "has_kprobes": True,
    "cgroup2_root": Path("/sys/fs/cgroup"),
}
CAUSES: list[tuple[dict[str, object], str]] = [
    ({"missing_capabilities": ["CAP_BPF", "CAP_PERFMON"]}, "missing CAP_BPF, CAP_PERFMON; run as root"),
    ({"has_btf": False}, "has no BTF"),
    ({"lockdown": "confidentiality"}, "kernel lockdown is in confidentiality mode"),
    ({"in_initial_user_namespace": False}, "this is a user namespace"),
    ({"memlock_is_limited": True}, "locked memory is limited (RLIMIT_MEMLOCK)"),
    ({"has_kprobes": False, "cgroup2_root": None}, "no kprobes and no cgroup v2 is mounted"),
    ({"has_kprobes": False}, "no kprobes (CONFIG_KPROBE_EVENTS); use -I ebpf:attach:cgroup"),
    ({}, "see `pyegress doctor`"),
]


def explained(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, object], codes: set[int], log: str = ""
) -> str:
    """The cause on a host where everything but `facts` is fine."""
    for name, value in {**FINE, **facts}.items():
        monkeypatch.setattr(kernel, name, lambda value=value: value)
    return kernel.explain(codes, log)


@pytest.mark.parametrize(("facts", "cause"), CAUSES, ids=[cause for _, cause in CAUSES])
def test_explain(facts: dict[str, object], cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cause alone is named, on one line."""
    text = explained(monkeypatch, facts, {errno.EPERM})
    assert cause in text
    assert "\n" not in text


@pytest.mark.parametrize("at", range(len(CAUSES) - 1))
def test_explain_names_the_deepest_cause(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several things are missing, the one is named without which the others would not help."""
    facts = {name: value for facts, _ in reversed(CAUSES[at:]) for name, value in facts.items()}
    assert CAUSES[at][1] in explained(monkeypatch, facts, {errno.EPERM})


@pytest.mark.parametrize("lockdown", ["none", "integrity", None])
def test_explain_does_not_blame_a_lockdown_that_allows_bpf(
    lockdown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only confidentiality keeps BPF from reading."""
    assert "lockdown" not in explained(monkeypatch, {"lockdown": lockdown}, {errno.EPERM})


@pytest.mark.parametrize(
    "log",
    ["unknown func bpf_probe_read_kernel#113", "program of this type cannot use helper bpf_probe_read#4"],
)
def test_explain_reads_the_verifier(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel hides its lockdown, the refused helper tells it."""
    text = explained(monkeypatch, {"lockdown": None}, {errno.EINVAL}, f"libbpf: ...\n{log}\n...")
    assert text.startswith("the kernel forbids BPF to read kernel memory")


def test_explain_does_not_blame_memory_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since 5.11 the limit on locked memory is no cause of anything."""
    facts: dict[str, object] = {"memlock_is_limited": True, "counts_as_locked": False}
    assert "memory" not in explained(monkeypatch, facts, {errno.EPERM})


def test_explain_names_memory_that_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cgroup, whose limit counts the kernel's tables."""
    text = explained(monkeypatch, {"counts_as_locked": False}, {errno.ENOMEM})
    assert text.startswith("out of memory for the kernel's tables; raise MemoryMax=")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EBADF])
def test_explain_names_too_few_open_files(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is limited: these errnos tell."""
    text = explained(monkeypatch, {"memlock_is_limited": True}, {errno.EPERM, code})
    assert text.startswith("too few files may be open (RLIMIT_NOFILE)")


@pytest.mark.parametrize(
    ("release", "version", "counts"),
    [
        ("6.12.3-amd64", (6, 12), False),
        ("5.11.0", (5, 11), False),
        ("5.10.0-30", (5, 10), True),
        ("x", (0, 0), True),
    ],
)
def test_release(
    release: str, version: tuple[int, int], counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are compared as numbers; BPF memory counts as locked before 5.11."""
    monkeypatch.setattr(platform, "release", lambda: release)
    assert kernel.release() == version
    assert kernel.counts_as_locked() is counts


def test_explain_does_not_blame_memory_for_other_errnos(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on locked memory gives EPERM or ENOMEM, so it is no cause of EINVAL."""
    assert "memory" not in explained(monkeypatch, {"memlock_is_limited": True}, {errno.EINVAL})


@pytest.mark.parametrize(("soft", "limited"), [(8 << 20, True), (0, True), (-1, False)])
def test_memlock(soft: int, limited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit is the one in force."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, -1))
    assert kernel.memlock_is_limited() is limited


@pytest.mark.parametrize(
    ("release", "has", "needed"),
    [
        ("6.1.0", {Capability.BPF}, set()),
        ("5.19.0", {Capability.BPF}, set()),
        ("5.18.0", {Capability.BPF, Capability.SYS_ADMIN}, {Capability.BPF}),
        ("5.10.0", {Capability.SYS_ADMIN}, {Capability.SYS_ADMIN}),
    ],
)
def test_rights_over_tables(
    release: str, has: set[Capability], needed: set[Capability], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old kernels ask for them at each access; there what stands in for CAP_BPF is kept in its place."""
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(kernel, "effective_capabilities", lambda: sum(1 << each for each in has))
    assert kernel.table_rights() == needed


def test_has_module() -> None:
    """As /proc/modules lists those that are loaded."""
    assert not kernel.has_module("no_such_module")
    loaded = Path("/proc/modules").read_text().split() if Path("/proc/modules").exists() else []
    assert all(kernel.has_module(name) for name in loaded[:1])
