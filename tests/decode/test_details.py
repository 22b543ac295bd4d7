# SPDX-License-Identifier: MIT
"""Details: each member of a raw record at its place, one record after the other, whatever bytes they hold."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from pyegress._native import ffi, lib
from pyegress.decode.details import DetailsDecoder, SeenDecoder, text
from pyegress.record import CgroupPath, Details, Identity, Seen

NO_LOGIN = 0xFFFFFFFF
WHOLE = lib.EGRESS_HAS_ARGS | lib.EGRESS_HAS_PATH

PROCESS: dict[str, Any] = {
    "identity": {"start_ns": 11, "tgid": 12, "exec_id": 13},
    "cgroup_id": 14,
    "uid": 15,
    "gid": 16,
    "flags": 0,
    "comm": b"curl",
}
HEAD: dict[str, Any] = {
    "kind": lib.EGRESS_PROCESS_DETAILS,
    "flags": WHOLE,
    "parent": {"start_ns": 21, "tgid": 22, "exec_id": 23},
    "arg_start": 0x7FFF_FFFF_F123,
    "local_pid": 24,
    "session_pid": 25,
    "loginuid": 26,
    "netns": 27,
    "pidns": 28,
    "session_comm": b"bash",
}
PATH = b"curl/bin/usr/"
ARGS = b"curl\0http://a/\0"


def raw(
    path: bytes = PATH, args: bytes = ARGS, process: dict[str, Any] | None = None, **changed: Any
) -> bytes:
    """One record as the loader keeps it: the struct, path and arguments, and a gap to a multiple of 8 bytes."""
    data = path + args
    members = {**HEAD, "path_bytes": len(path), "args_bytes": len(args), **changed}
    process = {**PROCESS, **(process or {})}
    made = ffi.new("struct egress_details *", {**members, "process": process, "data": list(data)})
    whole = bytes(ffi.buffer(made, ffi.sizeof("struct egress_details") + len(data)))
    return whole + b"\xa5" * (-len(whole) % 8)


def raw_cgroup(path: bytes, cgroup_id: int = 14) -> bytes:
    """A record of a cgroup, of which all else is 0."""
    process = {"identity": {}, "cgroup_id": cgroup_id, "uid": 0, "gid": 0, "comm": b""}
    nothing: dict[str, Any] = {**dict.fromkeys(HEAD, 0), "parent": {}, "session_comm": b""}
    return raw(path, b"", process, **{**nothing, "kind": lib.EGRESS_CGROUP_DETAILS})


def decode_all(*records: bytes) -> list[Details | CgroupPath]:
    """What a buffer of these records tells."""
    return list(DetailsDecoder(ffi).decode(memoryview(b"".join(records))))


def decode(*args: Any, **changed: Any) -> Details:
    """The details of one program."""
    (told,) = decode_all(raw(*args, **changed))
    assert isinstance(told, Details)
    return told


def test_every_field() -> None:
    """Each field comes from its own member of the record."""
    assert decode() == Details(
        seen=Seen(
            identity=Identity(tgid=12, start_ns=11, exec_id=13),
            comm="curl",
            uid=15,
            gid=16,
            cgroup_id=14,
            kernel=False,
        ),
        parent=Identity(tgid=22, start_ns=21, exec_id=23),
        local_pid=24,
        exe="/usr/bin/curl",
        args=b"curl\0http://a/\0",
        args_cut=False,
        fault=False,
        arg_start=0x7FFF_FFFF_F123,
        session_pid=25,
        session_comm="bash",
        loginuid=26,
        netns=27,
        pidns=28,
    )


def test_the_events_process_is_the_same_as_the_details() -> None:
    """Both ways to a program lead to one Seen, which is what they are matched by."""
    made = ffi.new("struct egress_process *", PROCESS)
    assert SeenDecoder(ffi).decode(bytes(ffi.buffer(made))) == decode().seen


def test_greatest_values() -> None:
    """Numbers have all their bits, and no sign."""
    most, more = (1 << 32) - 1, (1 << 64) - 1
    identity = {"start_ns": more, "tgid": most, "exec_id": most}
    process = {"identity": identity, "cgroup_id": more, "uid": most, "gid": most, "flags": most}
    numbers = dict.fromkeys(("local_pid", "session_pid", "netns", "pidns"), most)
    told = decode(process=process, parent=identity, arg_start=more, **numbers)
    assert told.seen == Seen(Identity(most, more, most), "curl", most, most, more, True)
    assert told.parent == Identity(most, more, most)
    assert told.arg_start == more
    assert (told.local_pid, told.session_pid, told.netns, told.pidns) == (most, most, most, most)


@pytest.mark.parametrize("member", ["local_pid", "session_pid", "netns", "pidns"])
def test_number_0_is_unknown(member: str) -> None:
    """No process and no namespace has the number 0, so none is claimed to have it."""
    assert decode(**{member: 0})._asdict() == {**decode()._asdict(), member: None}


@pytest.mark.parametrize(
    ("stored", "loginuid"), [(NO_LOGIN, None), (0, 0), (1000, 1000), (NO_LOGIN - 1, NO_LOGIN - 1)]
)
def test_loginuid(stored: int, loginuid: int | None) -> None:
    """-1 is nobody; root may have logged in."""
    assert decode(loginuid=stored).loginuid == loginuid


@pytest.mark.parametrize(
    ("parent", "found"),
    [
        ({"start_ns": 0, "tgid": 0, "exec_id": 0}, None),
        ({"start_ns": 0, "tgid": 1, "exec_id": 0}, Identity(1, 0, 0)),
        ({"start_ns": 5, "tgid": 2, "exec_id": 0}, Identity(2, 5, 0)),
    ],
    ids=["none", "started at 0", "kthreadd"],
)
def test_parent(parent: dict[str, int], found: Identity | None) -> None:
    """The first processes of a host have none; the idle task, number 0, is no parent."""
    assert decode(parent=parent).parent == found


def test_kernel_thread() -> None:
    """It has no path and no arguments, and that is no fault."""
    told = decode(b"", b"", {"flags": lib.EGRESS_KERNEL_THREAD, "comm": b"kworker/0:1"}, flags=0, arg_start=0)
    assert told.seen.kernel is True
    assert (told.exe, told.args, told.fault, told.arg_start) == (None, None, False, 0)


@pytest.mark.parametrize(
    ("stored", "path"),
    [
        (b"sh/", "/sh"),
        (b"curl/bin/usr/", "/usr/bin/curl"),
        (b"a b/c\n/", "/c\n/a b"),
        (b"\xff\xfe/\xe9/", "/\udce9/\udcff\udcfe"),
        ("caf\u00e9/".encode(), "/caf\u00e9"),
        (b"memfd:x/", "/memfd:x"),
        (b"..../.../", "/.../...."),
        (b"\x1b[31m/", "/\x1b[31m"),
        (b"x" * 255 + b"/" + b"y" * 255 + b"/", "/" + "y" * 255 + "/" + "x" * 255),
    ],
)
def test_path(stored: bytes, path: str) -> None:
    """Components come last first; any byte but a slash may be in them."""
    told = decode(stored)
    assert told.exe == path
    assert told.args == ARGS


def test_without_a_path() -> None:
    """What the kernel could not read is unknown, not the root."""
    told = decode(b"", flags=lib.EGRESS_HAS_ARGS | lib.EGRESS_FAULT)
    assert (told.exe, told.args, told.fault) == (None, ARGS, True)
    assert decode(flags=lib.EGRESS_HAS_ARGS).exe is None


@pytest.mark.parametrize(
    "args",
    [b"", b"\0", b"a\0", b"a\0\0b\0", b"a", b"\xff\xfe\0\n\x1b]0;x\x07\0", b"x" * 4096],
    ids=["none", "one that is empty", "one", "empty in between", "no end", "no text", "long"],
)
def test_arguments(args: bytes) -> None:
    """They are handed on as they are; that there are none is known."""
    told = decode(PATH, args)
    assert told.args == args
    assert told.exe == "/usr/bin/curl"


@pytest.mark.parametrize("flags", [0, lib.EGRESS_FAULT, lib.EGRESS_HAS_PATH])
def test_without_arguments(flags: int) -> None:
    """Arguments that nobody could read, or asked for, are unknown, not none."""
    assert decode(b"", b"", flags=flags).args is None


@pytest.mark.parametrize(
    ("flags", "cut", "fault"),
    [
        (WHOLE, False, False),
        (WHOLE | lib.EGRESS_ARGS_CUT, True, False),
        (WHOLE | lib.EGRESS_FAULT, False, True),
        (WHOLE | lib.EGRESS_ARGS_CUT | lib.EGRESS_FAULT, True, True),
    ],
)
def test_flags(flags: int, cut: bool, fault: bool) -> None:
    """Each flag is its own."""
    told = decode(flags=flags)
    assert (told.args_cut, told.fault) == (cut, fault)
    assert (told.exe, told.args) == ("/usr/bin/curl", ARGS)


@pytest.mark.parametrize(
    ("stored", "comm"), [(b"bash", "bash"), (b"", None), (b"\0old", None), (b"\xff) S", "\udcff) S")]
)
def test_session_leader(stored: bytes, comm: str | None) -> None:
    """Of one that has gone there is a number and no name."""
    told = decode(session_comm=stored)
    assert (told.session_pid, told.session_comm) == (25, comm)


@pytest.mark.parametrize(
    ("comm", "name"),
    [
        (b"", ""),
        (b"curl\0garbage", "curl"),
        (b"0123456789abcdef", "0123456789abcdef"),
        (b"123456789abcde\xc3\0", "123456789abcde\udcc3"),
        (b"a\nb\x1b[31m", "a\nb\x1b[31m"),
    ],
)
def test_name(comm: bytes, name: str) -> None:
    """A name ends at its first NUL, or with the field; bytes that are no text survive, and go back."""
    assert text(comm) == decode(process={"comm": comm}).seen.comm == name
    assert name.encode("utf-8", "surrogateescape") == comm.split(b"\0")[0]


@pytest.mark.parametrize(
    ("stored", "path"),
    [
        (b"", "/"),
        (b"init.scope/", "/init.scope"),
        (b"ssh.service/system.slice/", "/system.slice/ssh.service"),
        (b"\xff\xfe/user\xe9/", "/user\udce9/\udcff\udcfe"),
        (b"a\nb/x y/", "/x y/a\nb"),
    ],
    ids=["root", "one", "two", "no text", "blanks"],
)
@pytest.mark.parametrize("cgroup_id", [1, 14, (1 << 63) | 7, (3 << 62) | 7])
def test_cgroup(stored: bytes, path: str, cgroup_id: int) -> None:
    """Of a cgroup only number and path count; the root has a path too."""
    assert decode_all(raw_cgroup(stored, cgroup_id)) == [CgroupPath(cgroup_id, path)]


@pytest.mark.parametrize("length", range(1, 10))
def test_records_follow_each_other(length: int) -> None:
    """Each begins at the next multiple of 8, whatever length the one before has; their order is kept."""
    first = raw(PATH, b"x" * length)
    cgroup = raw_cgroup(b"y" * length + b"/", 30)
    last = raw(b"z" * length + b"/", b"", {"identity": {"start_ns": 1, "tgid": 2, "exec_id": 3}})
    assert not any(len(record) % 8 for record in (first, cgroup, last))
    one, two, three, four = decode_all(first, cgroup, last, first)
    assert isinstance(one, Details) and isinstance(three, Details)
    assert one.args == b"x" * length
    assert two == CgroupPath(30, "/" + "y" * length)
    assert three.seen.identity == Identity(2, 1, 3)
    assert (three.exe, three.args) == ("/" + "z" * length, b"")
    assert one == four


def test_last_record_may_end_before_its_gap() -> None:
    """The gap after a record is nobody's, and need not be there."""
    record = raw(PATH, b"x")
    end = ffi.sizeof("struct egress_details") + len(PATH) + 1
    assert end % 8
    assert decode_all(record[:end]) == decode_all(record)


def test_no_records() -> None:
    """An empty buffer tells nothing."""
    assert decode_all() == []


def test_records_are_decoded_as_they_are_taken() -> None:
    """One that is cut off is an error and not a record of other bytes; what came before it is told."""
    decoding = DetailsDecoder(ffi).decode(memoryview(raw() + raw()[:100]))
    assert next(decoding) == decode()
    with pytest.raises(struct.error, match="buffer of at least"):
        next(decoding)


def test_what_was_told_does_not_change_with_the_buffer() -> None:
    """The loader's buffer is written over by the next read."""
    buffer = bytearray(raw() + raw_cgroup(b"a/b/"))
    told = list(DetailsDecoder(ffi).decode(memoryview(buffer)))
    buffer[:] = b"\xff" * len(buffer)
    assert told == [decode(), CgroupPath(14, "/b/a")]


def test_what_programs_have_in_common_is_one_object() -> None:
    """A host's programs have few parents and paths, and thousands of them are remembered."""
    first, second = decode_all(raw(), raw(process={"identity": {"start_ns": 31, "tgid": 32, "exec_id": 33}}))
    assert isinstance(first, Details) and isinstance(second, Details)
    assert first.seen.identity != second.seen.identity
    assert first.parent is second.parent and first.exe is second.exe
    assert first.seen.comm is second.seen.comm and first.session_comm is second.session_comm
