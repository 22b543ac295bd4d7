# SPDX-License-Identifier: MIT
"""What is given to others: a source distribution that builds anywhere, and a wheel that needs nothing."""

from __future__ import annotations

import os
import platform
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
OBJECTS = "egress.bpf.o", "egress_cast.bpf.o", "names.bpf.o"
WHEELHOUSE = ROOT / ".venv" / "wheelhouse"


class Built(NamedTuple):
    """What `make` left in the wheelhouse, and both taken apart."""

    wheel: Path
    sdist: list[str]
    """Names of its files. It was made in a folder in which everything had been built."""
    source: Path
    """The sdist, unpacked."""
    target: Path
    """The wheel, installed."""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command that works."""
    env = {**os.environ, **environment}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Have make see to it that both are of the sources as they are."""
    if not shutil.which("make") or not (ROOT / "Makefile").exists():
        pytest.skip("no make, or no Makefile")
    run("make", "wheelhouse", cwd=ROOT)
    folder = tmp_path_factory.mktemp("dist")
    (wheel,) = WHEELHOUSE.glob("pyegress-*.whl")
    (sdist,) = WHEELHOUSE.glob("pyegress-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
        archive.extractall(folder / "unpacked")
    (source,) = (folder / "unpacked").iterdir()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "install", "--no-deps", "--no-compile", "--target", folder / "target", wheel, cwd=folder)
    return Built(wheel, names, source, folder / "target")


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


def test_sdist_has_nothing_of_the_machine_that_made_it(built: Built) -> None:
    """It would go into everybody's wheel; objects of the kernel's side are for each kind of machine."""
    binaries = [name for name in built.sdist if re.search(r"\.so\b|\.pyc$|\.o$|_egress\.c$", name)]
    assert sorted(binaries) == [
        f"prebuilt/{machine}/{name}" for machine in ("aarch64", "x86_64") for name in OBJECTS
    ]


def test_source_builds_without_clang(built: Built, tmp_path: Path) -> None:
    """The object that came with it is taken, and it is what clang makes of that source in another folder."""
    code = "import build; build.build_objects()"
    said = run(sys.executable, "-c", code, cwd=built.source, PATH=str(tmp_path))
    assert "no clang" in said
    for name in OBJECTS:
        assert (built.source / NATIVE / name).read_bytes() == in_wheel(built, f"{NATIVE}/{name}")


def test_wheel_has_all_that_it_needs(built: Built) -> None:
    """Object, module and libraries are inside, zlib too."""
    found = names(built)
    assert {
        *(f"{NATIVE}/{name}" for name in OBJECTS),
        f"{NATIVE}/_egress.abi3.so",
        "pyegress/report/page.html",
        "pyegress/report/page.css",
    } <= set(found)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in found)
    libraries = [name for name in found if name.startswith("pyegress.libs/")]
    assert {"libbpf", "libelf", "libz"} <= set(re.findall(r"/(lib[a-z]+)", " ".join(libraries)))


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
    """The module uses the stable interface, the libraries no newer glibc, and the wheel's name says so."""
    found = re.search(r"-(cp310-abi3-manylinux_2_([0-9]+)_\w+)\.whl$", built.wheel.name)
    assert found
    assert int(found[2]) <= int(platform.libc_ver()[1].partition(".")[2])
    assert f"Tag: {found[1]}\n".encode() in in_wheel(
        built, next(n for n in names(built) if n.endswith("/WHEEL"))
    )
    shown = run(sys.executable, "-m", "auditwheel", "show", built.wheel, cwd=ROOT, COLUMNS="200")
    assert "is consistent with" in " ".join(shown.split())


def names(built: Built) -> list[str]:
    """Files of the wheel."""
    with zipfile.ZipFile(built.wheel) as archive:
        return archive.namelist()


@pytest.mark.parametrize("name", [*OBJECTS, "_egress.abi3.so"])
def test_binaries_do_not_tell_where_they_were_built(built: Built, name: str) -> None:
    """No path of the builder's is in them."""
    assert not re.search(rb"/(tmp|home|root|work|build)/", in_wheel(built, f"{NATIVE}/{name}"))


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
    said = run("ldd", built.target / NATIVE / "_egress.abi3.so", cwd=Path("/"))
    found = dict(re.findall(r"(lib(?:bpf|elf|z)-\S*) => (\S+)", said))
    assert len(found) == 3
    assert {Path(path).resolve().parent for path in found.values()} == {built.target / "pyegress.libs"}
