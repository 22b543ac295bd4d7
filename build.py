# SPDX-License-Identifier: MIT
"""Builds what is native: the BPF object by clang, the cffi module over libbpf, and libbpf put beside it.

`pip install .` comes here through pyproject.toml's cmdclass; `python build.py` builds in place.
(`python -m build` in this folder would run this file: use `pyproject-build` or `python -P -m build`.)
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "pyegress" / "_native"
OBJECT = NATIVE / "egress.bpf.o"
MODULE = NATIVE / "_egress.c"
LIBRARIES = NATIVE / "lib"
BPF_ARCH = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv", "s390x": "s390", "ppc64le": "powerpc"}
LEAST_LIBBPF = (1, 0)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """The command's stdout; ends the build with the cause when it can't be run."""
    try:
        return subprocess.run(command, cwd=cwd, check=True, text=True, stdout=subprocess.PIPE).stdout
    except FileNotFoundError:
        sys.exit(f"build.py: {command[0]} is not installed (apt-get install clang llvm libbpf-dev gcc)")
    except subprocess.CalledProcessError as error:
        sys.exit(f"build.py: {' '.join(map(str, command))} failed with status {error.returncode}")


def build_object() -> None:
    """Compile the BPF programs, to the same bytes whatever the folder."""
    sources = sorted((ROOT / "bpf").iterdir())
    if OBJECT.exists() and OBJECT.stat().st_mtime >= max(s.stat().st_mtime for s in sources):
        return
    if not shutil.which("clang") and OBJECT.exists():
        print("build.py: no clang, so the BPF object that came with the source is used")
        return
    machine = platform.machine()
    if machine not in BPF_ARCH:
        sys.exit(f"build.py: no BPF build for {machine}")
    run(
        *(
            "clang",
            "-target",
            "bpf",
            f"-D__TARGET_ARCH_{BPF_ARCH[machine]}",
            f"-I/usr/include/{machine}-linux-gnu",
        ),
        *("-g", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
        *(f"-ffile-prefix-map={ROOT / 'bpf'}=.", "-fdebug-compilation-dir=."),
        *("-c", "egress.bpf.c", "-o", OBJECT),
        cwd=ROOT / "bpf",
    )
    run("llvm-strip", "-g", OBJECT)


def c_declarations() -> str:
    """What cffi's cdef takes of our headers, as the preprocessor leaves them."""
    text = run(
        *("cc", "-E", "-P", "-D__VMLINUX_H__", "-I", ROOT / "bpf", NATIVE / "native.h"),
    )
    words = {8: "char", 16: "short", 32: "int", 64: "long long"}
    types = "".join(
        f"typedef unsigned {w} __u{bits}; typedef signed {w} __s{bits};\n" for bits, w in words.items()
    )
    return types + text


def build_module() -> None:
    """Write the C of the extension module."""
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(c_declarations())
    ffi.set_source("pyegress._native._egress", '#include "native.h"\n', py_limited_api=True)
    ffi.emit_c_code(str(MODULE))


def bundle_libraries(module: Path) -> None:
    """Copy libbpf and what it needs beside the module, so that none is needed where it runs.

    The module's run path is `$ORIGIN/lib` (an RPATH, which also holds for the libraries' own needs).
    """
    target = module.parent / "lib"
    target.mkdir(exist_ok=True)
    for name, path in re.findall(r"(lib(?:bpf|elf|z|zstd)\.so\S*) => (\S+)", run("ldd", module)):
        if Path(path).resolve().parent != target.resolve():
            shutil.copyfile(path, target / name)


def check_libbpf() -> None:
    """End the build with the cause where libbpf is missing or too old."""
    probe = "#include <bpf/libbpf_version.h>\nVERSION LIBBPF_MAJOR_VERSION LIBBPF_MINOR_VERSION\n"
    try:
        done = subprocess.run(["cc", "-E", "-P", "-"], input=probe, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("build.py: there is no C compiler (apt-get install gcc libc6-dev)")
    found = re.search(r"VERSION (\d+) (\d+)", done.stdout) if done.returncode == 0 else None
    if found is None:
        sys.exit(
            "build.py: libbpf 1.0 or newer is missing (apt-get install libbpf-dev; Debian 12, Ubuntu 24.04)"
        )
    version = (int(found[1]), int(found[2]))
    if version < LEAST_LIBBPF:
        sys.exit(f"build.py: libbpf {found[1]}.{found[2]} is too old: 1.0 or newer (Debian 12, Ubuntu 24.04)")


class BuildNative(build_ext):
    """setuptools' build_ext with the BPF object before and the bundled libraries after."""

    def run(self) -> None:
        check_libbpf()
        build_object()
        build_module()
        super().run()
        for extension in self.extensions:
            built = Path(self.get_ext_fullpath(extension.name)).resolve()
            bundle_libraries(built)
            if built.parent != NATIVE:
                shutil.copyfile(OBJECT, built.parent / OBJECT.name)


def main() -> None:
    """`python build.py`: build in place."""
    os.chdir(ROOT)
    setup(script_args=["build_ext", "--inplace"])


if __name__ == "__main__":
    main()
