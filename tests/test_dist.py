# SPDX-License-Identifier: MIT
"""What is given to others: a source distribution that builds anywhere, and a wheel that needs nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = "pyegress/_native"
TOOLS = ("git", "clang", "llvm-strip", "cc", "ldd")


class Built(NamedTuple):
    """Everything that is made once for these tests."""

    folder: Path
    """Holds only what is made here."""
    sdist: list[str]
    """Names of files in the sdist, from the repository's files alone."""
    sdist_of_built: list[str]
    """And from a folder in which the module had been built."""
    wheel: Path
    """Built from the sdist, in a folder of its own."""
    object: Path
    """The BPF object built in another folder, of another length."""
    target: Path
    """The wheel, installed."""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command that works."""
    env = {**os.environ, **environment}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def sdist_in(folder: Path, out: Path) -> Path:
    """The source distribution of a folder."""
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    run(sys.executable, "-c", code, cwd=folder)
    (made,) = out.iterdir()
    return made


def names_in(sdist: Path) -> list[str]:
    """Files of a source distribution without the folder that all are in."""
    with tarfile.open(sdist) as archive:
        return [member.name.partition("/")[2] for member in archive if member.isfile()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Copy what git would commit, make an sdist of it, a wheel of that, and install it."""
    for tool in TOOLS:
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("dist")
    copy, unpacked = folder / "copy-with-a-longer-name", folder / "unpacked"
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # and not deleted since the last commit
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)

    sdist = sdist_in(copy, folder / "sdist")
    unpacked.mkdir()
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked)
    (source,) = unpacked.iterdir()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    wheels = folder / "wheel"
    run(*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, cwd=source)
    (wheel,) = wheels.iterdir()
    target = folder / "target"
    run(*pip, "install", "--no-deps", "--no-compile", "--target", target, wheel, cwd=folder)

    run(sys.executable, "-c", "import build; build.build_object()", cwd=copy)
    (copy / NATIVE / "lib").mkdir()
    for name in ("lib/libbpf.so.1", "_egress.abi3.so", "_egress.c"):
        (copy / NATIVE / name).write_bytes(b"built")
    return Built(
        folder=folder,
        sdist=names_in(sdist),
        sdist_of_built=names_in(sdist_in(copy, folder / "sdist-of-built")),
        wheel=wheel,
        object=copy / NATIVE / "egress.bpf.o",
        target=target,
    )


def in_wheel(built: Built, name: str) -> bytes:
    """A file of the wheel."""
    with zipfile.ZipFile(built.wheel) as archive:
        return archive.read(name)


def test_sdist_has_every_source_of_the_build(built: Built) -> None:
    """All that is compiled, and all modules, are in it."""
    needed = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bpf").iterdir()}
    needed |= {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pyegress").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    needed |= {path.relative_to(ROOT).as_posix() for path in (ROOT / NATIVE).glob("[a-z]*.[ch]")}
    needed |= {"build.py", "pyproject.toml", "LICENSE", "README.md"}
    assert needed <= set(built.sdist)


def test_sdist_has_nothing_that_was_built(built: Built) -> None:
    """Libraries of the machine that made it would go into everybody's wheel."""
    for names in (built.sdist, built.sdist_of_built):
        binaries = [name for name in names if re.search(r"\.so\b|/lib/|\.pyc$", name)]
        assert binaries == []


def test_wheel_has_all_that_it_needs(built: Built) -> None:
    """Object, module and libraries are inside."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    assert {
        f"{NATIVE}/egress.bpf.o",
        f"{NATIVE}/_egress.abi3.so",
        f"{NATIVE}/lib/libbpf.so.1",
        f"{NATIVE}/lib/libelf.so.1",
    } <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_has_every_module(built: Built) -> None:
    """A package that is forgotten in pyproject.toml would be missing only where it is installed."""
    with zipfile.ZipFile(built.wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    assert packed == {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pyegress").rglob("*.py")
        if "__pycache__" not in path.parts
    }


def test_wheel_is_for_every_python_from_the_oldest(built: Built) -> None:
    """The module uses the stable interface, and the wheel's name says so."""
    assert re.search(r"-cp311-abi3-linux_\w+\.whl$", built.wheel.name)
    assert b"Tag: cp311-abi3-" in in_wheel(built, next(n for n in names(built) if n.endswith("/WHEEL")))


def names(built: Built) -> list[str]:
    """Files of the wheel."""
    with zipfile.ZipFile(built.wheel) as archive:
        return archive.namelist()


@pytest.mark.parametrize("name", ["egress.bpf.o", "_egress.abi3.so"])
def test_binaries_do_not_tell_where_they_were_built(built: Built, name: str) -> None:
    """No path of the builder's is in them."""
    binary = in_wheel(built, f"{NATIVE}/{name}")
    assert os.fsencode(built.folder) not in binary
    assert os.fsencode(ROOT) not in binary


def test_object_is_the_same_wherever_it_is_built(built: Built) -> None:
    """Two folders give the same bytes, so that anyone can check them."""
    assert in_wheel(built, f"{NATIVE}/egress.bpf.o") == built.object.read_bytes()


def test_installed_wheel_works_outside_the_checkout(built: Built) -> None:
    """It imports what was installed, loads its native module and lists its plugins."""
    environment = {"PYTHONPATH": str(built.target), "PYTHONSAFEPATH": "1"}
    code = (
        "import pyegress._native as native\n"
        "print(native.__file__, native.BPF_OBJECT, native.BPF_OBJECT.is_file(), bool(native.lib.egress_log()))"
    )
    package = built.target / NATIVE
    said = run(sys.executable, "-c", code, cwd=Path("/"), **environment)
    assert said.split() == [f"{package}/__init__.py", f"{package}/egress.bpf.o", "True", "True"]
    listed = run(sys.executable, "-m", "pyegress", "list", cwd=Path("/"), **environment)
    assert re.search(r"^\W*ebpf\b", listed, re.MULTILINE)
    assert "logfmt" in listed


def test_installed_module_finds_its_own_libraries(built: Built) -> None:
    """libbpf and what libbpf needs come from the package, whatever the system has."""
    module = built.target / NATIVE / "_egress.abi3.so"
    found = dict(re.findall(r"(lib(?:bpf|elf|z)\.so\S*) => (\S+)", run("ldd", module, cwd=Path("/"))))
    assert {"libbpf.so.1", "libelf.so.1"} <= found.keys()
    assert {Path(path).resolve().parent for path in found.values()} == {module.parent / "lib"}
