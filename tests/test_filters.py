# SPDX-License-Identifier: MIT
"""Process filters: what a rule hides, what it can't know, and what of it a kernel may decide."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from pyegress import filters
from pyegress.destinations import DestinationFilterOptions
from pyegress.errors import UsageError
from pyegress.filters import FilterOptions, KernelRules, ProcessFilters, RecordFilterOptions
from pyegress.options import describe, parse
from pyegress.prefixes import Verdict
from pyegress.record import Connection, Process

KINDS = ("comm", "exe", "cmdline", "parent", "grandparent", "ancestor", "user", "unit", "container")
ID = "0123456789abcdef" * 4
INIT = Process(pid=1, comm="systemd", name="systemd")
SHELL = Process(pid=70, comm="bash", name="bash", cmdline="bash -l", parent=INIT)
PYTHON = Process(pid=80, comm="python3", name="python3", parent=SHELL)
LONG = Process(
    pid=90,
    comm="averyverylongna",
    name="averyverylongname",
    exe="/opt/a b/averyverylongname",
    cmdline="x --u=a/b\nc",
    uid=0,
    user="root",
    cgroup="/system.slice/ssh.service",
    unit="ssh.service",
    parent=PYTHON,
)
BOXED = Process(
    pid=91,
    comm="nginx",
    name="nginx",
    uid=54321,
    user="54321",
    cgroup=f"/user.slice/user-54321.slice/user@54321.service/app.slice/web.service/docker-{ID}.scope",
    unit="user@54321.service",
    user_unit="web.service",
    container=ID,
    container_engine="docker",
    container_name="web",
    parent=SHELL,
)
NAMELESS_BOX = Process(pid=92, cgroup="/k8s", container=ID)
LXC = Process(pid=93, cgroup="/lxc/0123456789abcdef-x", container="0123456789abcdef-x", container_name="box")
HOSTILE = Process(
    pid=94,
    comm="\udcff\udcfe[x]",
    name="\udcff\udcfe[x]",
    exe="/tmp/\udcff\n*",
    cmdline="\udcff ?\r\n\x1b[0m",
)
KTHREADD = Process(pid=2, comm="kthreadd", name="kthreadd", kernel=True)
WORKER = Process(
    pid=95, comm="kworker/u8:3", name="kworker", uid=0, user="root", cgroup="/", kernel=True, parent=KTHREADD
)
CUT_ARGUMENTS = Process(
    pid=96, comm="java", name="java", exe="/usr/bin/java", cmdline="java -cp a", cmdline_cut=True
)
CUT_NAME = Process(pid=97, comm="averyverylongna", name="averyverylongna")
RENAMED = Process(pid=98, comm="averyverylongna", name="averyverylongna", exe="/bin/x", cmdline="x")
ORPHAN = Process(pid=99, comm="cat", name="cat", parent=Process(pid=50, comm="sh", name="sh"))
BARE = Process(pid=100)
CALLED = Process(pid=101, user="root")
STRANGER_IN_A_NAMESPACE = Process(pid=2, comm="sh", name="sh")


def connection(process: Process | None, count: int = 1) -> Connection:
    """A connection of a process."""
    return Connection(
        ts=0,
        hook="ebpf",
        protocol="tcp",
        ip_version=4,
        dest_ip="192.0.2.1",
        dest_port=443,
        count=count,
        process=process,
    )


def made(**options: Any) -> ProcessFilters:
    """The filters of some options, by field name."""
    return ProcessFilters(FilterOptions(**options))


YES, NO, UNKNOWN = True, False, None

MATCHES = [
    ("comm", "averyverylongname", LONG, YES),
    ("comm", "averyverylongna", LONG, YES),
    ("comm", "averyverylong", LONG, NO),
    ("comm", "very", LONG, NO),
    ("comm", "a*name", LONG, YES),
    ("comm", "A*", LONG, NO),
    ("comm", "[!a]*", LONG, NO),
    ("comm", "[!b]*", LONG, YES),
    ("comm", "python3", LONG, NO),
    ("comm", "*", BARE, UNKNOWN),
    ("comm", "kworker", WORKER, YES),
    ("comm", "kworker/u8:3", WORKER, YES),
    ("comm", "kworker/*", WORKER, YES),
    ("comm", "kworker/", WORKER, NO),
    ("comm", "averyverylongname", CUT_NAME, UNKNOWN),
    ("comm", "averyverylongna", CUT_NAME, YES),
    ("comm", "a*name", CUT_NAME, UNKNOWN),
    ("comm", "averyverylong", CUT_NAME, NO),
    ("comm", "averyverylongother", LONG, NO),
    ("comm", "averyverylongname", RENAMED, NO),
    ("comm", "a*name", RENAMED, NO),
    ("comm", "a*", Process(pid=9, comm="irq/123-nvidia-", name="irq", kernel=True), NO),
    ("comm", "a*", Process(pid=9, comm="rcu_tasks_kthre", name="rcu_tasks_kthre", kernel=True), NO),
    ("comm", "\udcff\udcfe[[]x]", HOSTILE, YES),
    ("comm", "\udcff*", HOSTILE, YES),
    ("comm", "\udcff?[[]x[]]", HOSTILE, YES),
    ("comm", "\udcff\udcff*", HOSTILE, NO),
    ("comm", "\\*", HOSTILE, NO),
    ("comm", "(", HOSTILE, NO),
    ("exe", "/opt/a b/averyverylongname", LONG, YES),
    ("exe", "averyverylongname", LONG, NO),
    ("exe", "/opt/a b", LONG, NO),
    ("exe", "/opt/*name", LONG, YES),
    ("exe", "opt/*name", LONG, NO),
    ("exe", "/tmp/\udcff?[*]", HOSTILE, YES),
    ("exe", "/tmp/*", HOSTILE, YES),
    ("exe", "*", SHELL, UNKNOWN),
    ("exe", "*", WORKER, NO),
    ("cmdline", "--u", LONG, YES),
    ("cmdline", "a/b\nc", LONG, YES),
    ("cmdline", "--U", LONG, NO),
    ("cmdline", "x*c", LONG, YES),
    ("cmdline", "x*b", LONG, NO),
    ("cmdline", "--u*", LONG, NO),
    ("cmdline", "x --u=a?b?c", LONG, YES),
    ("cmdline", "\udcff ", HOSTILE, YES),
    ("cmdline", "\udcff*m", HOSTILE, YES),
    ("cmdline", "*", BARE, UNKNOWN),
    ("cmdline", "*", Process(pid=9, cmdline=""), UNKNOWN),
    ("cmdline", "*", WORKER, NO),
    ("cmdline", "-cp", CUT_ARGUMENTS, YES),
    ("cmdline", "-jar", CUT_ARGUMENTS, UNKNOWN),
    ("cmdline", "java*", CUT_ARGUMENTS, YES),
    ("cmdline", "java*a", CUT_ARGUMENTS, UNKNOWN),
    ("cmdline", "*-jar*", CUT_ARGUMENTS, UNKNOWN),
    ("parent", "python3", LONG, YES),
    ("parent", "pyth?n3", LONG, YES),
    ("parent", "bash", LONG, NO),
    ("parent", "averyverylongname", LONG, NO),
    ("parent", "*", BARE, UNKNOWN),
    ("parent", "*", INIT, NO),
    ("parent", "*", KTHREADD, NO),
    ("parent", "*", STRANGER_IN_A_NAMESPACE, UNKNOWN),
    ("parent", "*", Process(pid=9, parent=BARE), UNKNOWN),
    ("grandparent", "ba*", LONG, YES),
    ("grandparent", "systemd", LONG, NO),
    ("grandparent", "python3", LONG, NO),
    ("grandparent", "*", ORPHAN, UNKNOWN),
    ("grandparent", "*", BARE, UNKNOWN),
    ("grandparent", "*", SHELL, NO),
    ("grandparent", "*", INIT, NO),
    ("ancestor", "python3", LONG, YES),
    ("ancestor", "bash", LONG, YES),
    ("ancestor", "sys*", LONG, YES),
    ("ancestor", "averyverylongname", LONG, NO),
    ("ancestor", "sh", ORPHAN, YES),
    ("ancestor", "bash", ORPHAN, UNKNOWN),
    ("ancestor", "bash", Process(pid=9, parent=Process(pid=8, parent=INIT)), UNKNOWN),
    ("ancestor", "systemd", Process(pid=9, parent=Process(pid=8, parent=INIT)), YES),
    ("ancestor", "kthreadd", WORKER, YES),
    ("ancestor", "bash", WORKER, NO),
    ("ancestor", "*", INIT, NO),
    ("ancestor", "*", BARE, UNKNOWN),
    ("user", "root", LONG, YES),
    ("user", "0", LONG, YES),
    ("user", "000", LONG, YES),
    ("user", "r*t", LONG, YES),
    ("user", "1", LONG, NO),
    ("user", "R*", LONG, NO),
    ("user", "54321", BOXED, YES),
    ("user", "5432*", BOXED, YES),
    ("user", "root", BOXED, NO),
    ("user", "root", Process(pid=9, uid=54321, user="root"), NO),
    ("user", "0", Process(pid=9, uid=0, user="toor"), YES),
    ("user", "root", Process(pid=9, uid=0, user="toor"), YES),
    ("user", "root", CALLED, YES),
    ("user", "daemon", CALLED, NO),
    ("user", "0", CALLED, UNKNOWN),
    ("user", "root", BARE, UNKNOWN),
    ("user", "*", BARE, UNKNOWN),
    ("unit", "ssh.service", LONG, YES),
    ("unit", "ssh*", LONG, YES),
    ("unit", "ssh", LONG, NO),
    ("unit", "web.service", BOXED, NO),  # a user's own name for it
    ("unit", "web*", BOXED, NO),
    ("unit", "user@54321.service/web.service", BOXED, YES),
    ("unit", "*/web.service", BOXED, YES),
    ("unit", "user@54321.service", BOXED, YES),
    ("unit", "user@*", BOXED, YES),
    ("unit", "*", WORKER, NO),
    ("unit", "*", BARE, UNKNOWN),
    ("unit", "ssh.service", Process(pid=9, unit="cron.service"), NO),
    ("container", ID, BOXED, YES),
    ("container", ID[:12], BOXED, YES),
    ("container", ID[:11], BOXED, NO),
    ("container", ID[1:], BOXED, NO),
    ("container", ID + "0", BOXED, NO),
    ("container", ID[:12].upper(), BOXED, NO),
    ("container", "0123*", BOXED, YES),
    ("container", "web", BOXED, YES),
    ("container", "w?b", BOXED, YES),
    ("container", "db", BOXED, NO),
    ("container", "docker", BOXED, NO),
    ("container", "db", NAMELESS_BOX, UNKNOWN),
    ("container", "w*", NAMELESS_BOX, UNKNOWN),
    ("container", ID[:12], NAMELESS_BOX, YES),
    ("container", "ffffffffffff", NAMELESS_BOX, NO),
    ("container", "0123456789abcdef-x", LXC, YES),
    ("container", "box", LXC, YES),
    ("container", "0123456789abcdef", LXC, NO),
    ("container", "web", LONG, NO),
    ("container", "*", WORKER, NO),
    ("container", "*", BARE, UNKNOWN),
    ("container", "web", Process(pid=9, container_name="web"), YES),
]


@pytest.mark.parametrize(("kind", "pattern", "process", "matches"), MATCHES)
def test_pattern(kind: str, pattern: str, process: Process, matches: bool | None) -> None:
    """An ignore-rule hides what surely matches, an only-rule what surely doesn't; neither what is not known."""
    ignoring = made(**{f"ignore_{kind}": (pattern,)})
    assert ignoring.labels == (f"ignore-{kind}:{pattern}",)
    assert ignoring.judge(process) == (0 if matches else None)
    wanting = made(**{f"only_{kind}": (pattern,)})
    assert wanting.labels == (f"only-{kind}:{pattern}", f"outside only-{kind}")
    assert wanting.judge(process) == (1 if matches is False else None)


def test_every_kind_is_tried() -> None:
    """The table above has each kind with each outcome."""
    tried = {(kind, matches) for kind, _, _, matches in MATCHES}
    assert tried == {(kind, matches) for kind in KINDS for matches in (YES, NO, UNKNOWN)}
    fields = [field.name for field in msgspec.structs.fields(RecordFilterOptions)]
    fields = fields[len(msgspec.structs.fields(DestinationFilterOptions)) :]
    assert fields == [f"{what}_{kind}" for what in ("ignore", "only") for kind in KINDS]


def test_unknown_is_kept() -> None:
    """No process at all, or one of which nothing is known."""
    everything = {f"{what}_{kind}": ("*",) for what in ("ignore", "only") for kind in KINDS}
    chosen = made(**everything)
    assert chosen.judge(None) is None
    assert chosen.keep(connection(None))
    assert chosen.keep(connection(BARE))
    assert chosen.hits == [0] * 27


def test_the_thread_does_not_decide() -> None:
    """A thread may name itself; the process is who connects."""
    chosen = made(ignore_comm=("worker",), only_comm=("bash",))
    assert chosen.keep(msgspec.structs.replace(connection(SHELL), thread="worker"))
    assert not chosen.keep(msgspec.structs.replace(connection(PYTHON), thread="bash"))


def test_labels_number_the_rules_in_the_order_of_the_options() -> None:
    """Whatever order they were given in; the pseudo rules come last."""
    chosen = made(
        only_container=("web",),
        only_comm=("a", "b"),
        ignore_ancestor=("cron",),
        ignore_comm=("z", "y"),
    )
    assert chosen.labels == (
        "ignore-comm:z",
        "ignore-comm:y",
        "ignore-ancestor:cron",
        "only-comm:a",
        "only-comm:b",
        "only-container:web",
        "outside only-comm",
        "outside only-container",
    )


def test_ignore_is_ored_and_the_first_counts() -> None:
    """The hits add up to the datagrams that were hidden."""
    chosen = made(ignore_comm=("nc", "bash"), ignore_parent=("systemd", "python3"))
    batch = [
        connection(SHELL, 3),
        connection(PYTHON),
        connection(SHELL),
        connection(LONG, 2),
        connection(None),
    ]
    assert chosen.apply(batch) == [batch[1], batch[4]]
    assert dict(zip(chosen.labels, chosen.hits, strict=True)) == {
        "ignore-comm:nc": 0,
        "ignore-comm:bash": 4,
        "ignore-parent:systemd": 0,
        "ignore-parent:python3": 2,
    }


def test_kinds_of_only_are_anded_and_their_patterns_ored() -> None:
    """Each given kind needs one of its own; the first that has none counts, and ignore comes before."""
    chosen = made(only_comm=("bash", "python*"), only_parent=("systemd",), ignore_cmdline=("--quiet",))
    quiet = msgspec.structs.replace(LONG, cmdline="x --quiet")
    batch = [connection(process, 2) for process in (SHELL, PYTHON, LONG, ORPHAN, quiet, WORKER)]
    assert chosen.apply(batch) == batch[:1]
    assert dict(zip(chosen.labels, chosen.hits, strict=True)) == {
        "ignore-cmdline:--quiet": 2,
        "only-comm:bash": 0,
        "only-comm:python*": 0,
        "only-parent:systemd": 0,
        "outside only-comm": 6,
        "outside only-parent": 2,
    }


def test_one_unknown_pattern_keeps_its_kind_alone() -> None:
    """What may match passes its kind, but another kind still hides."""
    assert made(only_comm=("curl", "averyverylongname")).judge(CUT_NAME) is None
    assert made(only_comm=("averyverylongname",), only_container=("web",)).judge(
        msgspec.structs.replace(CUT_NAME, cgroup="/")
    ) == len(("only-comm", "only-container", "outside only-comm"))


def test_same_batch_where_nothing_is_hidden() -> None:
    """No copy is made of what passes."""
    batch = [connection(SHELL)]
    assert made().apply(batch) is batch
    assert made(ignore_comm=("nc",)).apply(batch) is batch
    assert made(only_comm=("bash",)).apply(batch) is batch


def test_verdicts_are_right_when_the_cache_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short-lived processes that reuse an address in memory don't inherit a verdict."""
    monkeypatch.setattr(filters, "CACHED_PROCESSES", 4)
    chosen = made(ignore_comm=("odd",))
    for number in range(1000):
        name = "odd" if number % 2 else "even"
        assert chosen.keep(connection(Process(pid=number, comm=name, name=name))) is (name == "even")
    assert chosen.hits == [500]


@pytest.mark.parametrize("what", ["ignore", "only"])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_pattern_is_an_error(what: str, kind: str) -> None:
    """An empty pattern would hide every command line."""
    with pytest.raises(UsageError, match=f"^{what}-{kind}: the pattern must not be empty$"):
        made(**{f"{what}_{kind}": ("x*", "")})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("no-such-user", "no-such-user: no such user; give its number"),
        ("a\0\x1b", r"a\u0000\u001b: no such user; give its number"),
        ("-1", "-1: no such user; give its number"),
        ("4294967295", "4294967295: no such user; a number is at most 4294967294"),
    ],
)
def test_unknown_user_is_an_error(pattern: str, message: str) -> None:
    """A misspelt name would silently hide nothing, or everything."""
    with pytest.raises(UsageError) as raised:
        made(only_user=("root", pattern))
    assert str(raised.value) == f"only-user: {message}"


def test_options_are_inherited_with_their_help() -> None:
    """An input adds its own, also required ones, and is told of these in the same words."""

    class Own(RecordFilterOptions, frozen=True):
        group: int

    before = [option.key for option in describe(DestinationFilterOptions)]
    texts = {option.key: option.help for option in describe(Own) if option.key not in before}
    assert list(texts) == ["group", *(f"{what}-{kind}" for what in ("ignore", "only") for kind in KINDS)]
    assert all(text.startswith("hide processes ") for key, text in texts.items() if key != "group")
    given = parse("-I", "own", Own, [("group", "1"), ("only-user", "root"), ("only-user", "a:b")])
    assert given == Own(1, only_user=("root", "a:b"))


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"ignore_unit": ("ssh.service",)}, 0),
        ({"ignore_unit": ("cron.service",)}, None),
        ({"only_unit": ("cron.service",)}, 1),
        ({"only_unit": ("ssh*",)}, None),
        ({"only_container": ("web",)}, 1),
        ({"only_container": ("web",), "ignore_unit": ("ssh*",)}, 0),
        ({"ignore_comm": ("averyverylongname",), "ignore_user": ("root",)}, None),
        (
            {
                "ignore_comm": ("*",),
                "ignore_unit": ("x", "ssh*"),
                "only_exe": ("/x",),
                "only_container": ("x",),
            },
            2,
        ),
        ({"only_comm": ("x",), "only_unit": ("x",), "only_container": ("x",)}, 4),
    ],
)
def test_place(options: dict[str, Any], place: int | None) -> None:
    """Only the cgroup counts, so that it holds for all in it; what isn't known of it hides nothing."""
    chosen = made(**options)
    assert chosen.judge_place(LONG) == place
    assert chosen.judge_place(Process(pid=9, cgroup=LONG.cgroup, unit=LONG.unit)) == place
    assert chosen.judge_place(msgspec.structs.replace(LONG, cgroup=None, unit=None)) is None
    assert chosen.has_place_rules is any("unit" in option or "container" in option for option in options)
    assert place is None or chosen.judge(LONG) is not None


def comm(name: str) -> bytes:
    """A name as the kernel has it."""
    return name.encode("utf-8", "surrogateescape").ljust(16, b"\0")


@pytest.mark.parametrize(
    ("options", "kernel", "needs_verdicts"),
    [
        ({}, KernelRules({}, {}, None, None), False),
        (
            {"ignore_comm": ("curl", "curl", "é\udcff"), "only_comm": ("wget", "curl", "wget")},
            KernelRules(
                {
                    comm("curl"): Verdict(0, True, True),
                    comm("wget"): Verdict(3, False, True),
                    b"\xc3\xa9\xff".ljust(16, b"\0"): Verdict(2, True, False),
                },
                {},
                6,
                None,
            ),
            False,
        ),
        (
            # What an ASCII locale makes of é.
            {"ignore_comm": ("\udcc3\udca9",)},
            KernelRules({comm("é"): Verdict(0, True, False)}, {}, None, None),
            False,
        ),
        (
            {"ignore_comm": ("a" * 15,), "only_comm": ("b" * 14,)},
            KernelRules(
                {b"a" * 15 + b"\0": Verdict(0, True, False), b"b" * 14 + b"\0\0": Verdict(1, False, True)},
                {},
                2,
                None,
            ),
            False,
        ),
        ({"ignore_comm": ("a" * 16,)}, KernelRules({}, {}, None, None), True),
        ({"ignore_comm": ("é" * 8,)}, KernelRules({}, {}, None, None), True),
        ({"ignore_comm": ("a*",)}, KernelRules({}, {}, None, None), True),
        (
            {"only_comm": ("x", "a" * 15)},
            KernelRules(
                {comm("x"): Verdict(0, False, True), comm("a" * 15): Verdict(1, False, True)}, {}, None, None
            ),
            True,
        ),
        ({"only_comm": ("x", "y?")}, KernelRules({comm("x"): Verdict(0, False, True)}, {}, None, None), True),
        (
            {"ignore_user": ("54321",), "only_user": ("root", "0", "054321")},
            KernelRules({}, {54321: Verdict(0, True, True), 0: Verdict(1, False, True)}, None, 4),
            False,
        ),
        ({"only_user": ("0", "www*")}, KernelRules({}, {0: Verdict(0, False, True)}, None, None), True),
        ({"ignore_user": ("www*",)}, KernelRules({}, {}, None, None), True),
        ({"ignore_unit": ("a",), "only_container": ("b*",)}, KernelRules({}, {}, None, None), False),
        *(
            ({f"{what}_{kind}": ("x",)}, KernelRules({}, {}, None, None), True)
            for what in ("ignore", "only")
            for kind in ("exe", "cmdline", "parent", "grandparent", "ancestor")
        ),
    ],
)
def test_kernel_rules(options: dict[str, Any], kernel: KernelRules, needs_verdicts: bool) -> None:
    """The kernel gets what is exact and short enough; the rest is told it program by program."""
    chosen = made(**options)
    assert chosen.kernel == kernel
    assert chosen.needs_verdicts is needs_verdicts


def kernel_hides(rules: KernelRules, process: Process) -> int | None:
    """What the hooks do with these rules, in Python."""
    assert process.comm is not None
    assert process.uid is not None
    named = rules.comms.get(comm(process.comm))
    if named is None and not process.kernel and rules.outside_comm is not None:
        return rules.outside_comm
    if named is not None and named.ignore:
        return named.rule
    owned = rules.uids.get(process.uid)
    if owned is None and rules.outside_uid is not None:
        return rules.outside_uid
    return owned.rule if owned is not None and owned.ignore else None


NAMES = (
    "curl",
    "bash",
    "kworker",
    "kworker/3:1",
    "averyverylongna",
    "averyverylongname",
    "é\udcff",
    "a" * 14,
    "",
)
PATTERNS = (*(name for name in NAMES if name), "averyverylongother", "c*", "*", "[!k]*", "a" * 15)
USERS = ("root", "0", "54321", "1", "r*", "daemon", "*")
PLACES: tuple[dict[str, Any], ...] = (
    {},
    {"cgroup": "/"},
    {"cgroup": "/ssh.service", "unit": "ssh.service"},
    {"cgroup": "/c", "container": ID},
    {"cgroup": "/c", "container": ID, "container_name": "web"},
    {"cgroup": "/u", "unit": "user@0.service", "user_unit": "web.service"},
)


def random_process(source: random.Random, levels: int = 3) -> Process:
    """As the kernel and the resolver make them: `name` differs from `comm` only where that is cut or a worker's."""
    kernel = source.random() < 0.25
    name = source.choice(NAMES)
    short = comm(name)[:15].rstrip(b"\0").decode("utf-8", "surrogateescape")
    if kernel:
        name = short.partition("/")[0]
    elif source.random() < 0.5:
        name = short
    uid = source.choice((0, 1, 54321))
    return Process(
        pid=source.choice((1, 2, 3, 4000)),
        comm=short,
        name=name,
        exe=None if kernel else source.choice((None, f"/bin/{name}")),
        cmdline=None if kernel else source.choice((None, "", f"{name} -v")),
        cmdline_cut=source.random() < 0.2,
        uid=uid,
        user=source.choice((None, {0: "root", 1: "daemon"}.get(uid, str(uid)))),
        kernel=kernel,
        parent=random_process(source, levels - 1) if levels and source.random() < 0.7 else None,
        **source.choice(PLACES),
    )


def random_options(source: random.Random) -> dict[str, tuple[str, ...]]:
    """Some rules of some kinds, mostly of those that the kernel and the cgroup decide."""
    choices = dict.fromkeys(KINDS, PATTERNS) | {
        "user": USERS,
        "unit": ("ssh.service", "web*", "x"),
        "container": (ID[:12], "web", "w*", "x"),
    }
    options = {}
    for what in ("ignore", "only"):
        for kind, patterns in choices.items():
            if source.random() < (0.4 if kind in ("comm", "user", "unit", "container") else 0.1):
                options[f"{what}_{kind}"] = tuple(source.choices(patterns, k=source.randint(1, 3)))
    return options


@pytest.mark.parametrize("seed", range(8))
def test_what_the_kernel_hides_is_hidden(seed: int) -> None:
    """Its tables and the cgroup's verdict hide nothing that `judge` keeps; without other rules they are `judge`."""
    source = random.Random(seed)
    hidden_there = left_to_us = 0
    for _ in range(300):
        options = random_options(source)
        chosen = made(**options)
        for _ in range(40):
            process = random_process(source)
            by_kernel = kernel_hides(chosen.kernel, process)
            by_place = chosen.judge_place(process)
            judged = chosen.judge(process)
            if by_kernel is not None or by_place is not None:
                hidden_there += 1
                assert judged is not None, (options, process, by_kernel, by_place)
            elif judged is not None:
                left_to_us += 1
                assert chosen.needs_verdicts or process.kernel, (options, process, chosen.labels[judged])
    assert hidden_there > 1000
    assert left_to_us > 1000
