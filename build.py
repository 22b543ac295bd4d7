# SPDX-License-Identifier: MIT
"""Builds what is native: the BPF objects by clang, the cffi module over the system's libbpf.

`pip install .` comes here through pyproject.toml's cmdclass; `python build.py` builds in place; dist.py makes what
is given to others. (`python -m build` in this folder would run this file: use `make dist`.)
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
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "pyegress" / "_native"
OBJECTS: dict[str, tuple[str, ...]] = {
    "egress.bpf.o": ("egress.bpf.c",),
    # For kernels with bpf_rdonly_cast (6.2), which also have the newer instructions.
    "egress_cast.bpf.o": ("egress.bpf.c", "-DEGRESS_CAST", "-mcpu=v3"),
    # By itself: it needs nothing of the kernel's BTF, which takes longer to read than all else at the start.
    "names.bpf.o": ("names.bpf.c",),
}
"""By file, with the source and more of clang's flags."""
MODULE = NATIVE / "_egress.c"
PREBUILT = ROOT / "prebuilt"
"""Objects that come with a source distribution, by machine, for those without clang."""
BPF_ARCH = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv", "s390x": "s390", "ppc64le": "powerpc"}
PREBUILT_FOR = ("x86_64", "aarch64")
LEAST_LIBBPF = (1, 0)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """The command's stdout; ends the build with the cause when it can't be run."""
    try:
        return subprocess.run(command, cwd=cwd, check=True, text=True, stdout=subprocess.PIPE).stdout
    except FileNotFoundError:
        sys.exit(f"build.py: {command[0]} is not installed (apt-get install clang llvm libbpf-dev gcc)")
    except subprocess.CalledProcessError as error:
        sys.exit(f"build.py: {' '.join(map(str, command))} failed with status {error.returncode}")


def build_objects() -> None:
    """Compile the BPF programs for this machine, or take the objects that came with the source."""
    newest = max(source.stat().st_mtime for source in (ROOT / "bpf").iterdir())
    if all((NATIVE / name).exists() and (NATIVE / name).stat().st_mtime >= newest for name in OBJECTS):
        return
    machine = platform.machine()
    if not shutil.which("clang") and (PREBUILT / machine).exists():
        print("build.py: no clang, so the BPF objects that came with the source are used")
        for name in OBJECTS:
            shutil.copyfile(PREBUILT / machine / name, NATIVE / name)
    else:
        compile_objects(machine, NATIVE)


def compile_objects(machine: str, folder: Path) -> None:
    """Compile the BPF programs for a machine, to the same bytes whatever the folder of the source."""
    if machine not in BPF_ARCH:
        sys.exit(f"build.py: no BPF build for {machine}")
    headers = [Path(f"/usr/include/{machine}-linux-gnu"), Path(f"/usr/{machine}-linux-gnu/include")]
    if machine != platform.machine() and not any((folder / "asm").exists() for folder in headers):
        sys.exit(
            f"build.py: the kernel's headers for {machine} are missing"
            " (apt-get install linux-libc-dev-arm64-cross on x86-64, linux-libc-dev-amd64-cross on arm64)"
        )
    for name, flags in OBJECTS.items():
        run(
            *(
                "clang",
                "-target",
                "bpf",
                f"-D__TARGET_ARCH_{BPF_ARCH[machine]}",
                *(f"-I{f}" for f in headers),
            ),
            *("-g", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", *flags),
            *(f"-ffile-prefix-map={ROOT / 'bpf'}=.", "-fdebug-compilation-dir=."),
            *("-c", "-o", folder / name),
            cwd=ROOT / "bpf",
        )
        run("llvm-strip", "-g", folder / name)


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
    """setuptools' build_ext with the BPF object."""

    def run(self) -> None:
        check_libbpf()
        build_objects()
        build_module()
        super().run()
        for extension in self.extensions:
            built = Path(self.get_ext_fullpath(extension.name)).resolve()
            if built.parent != NATIVE:
                for name in OBJECTS:
                    shutil.copyfile(NATIVE / name, built.parent / name)


class SourceWithObjects(sdist):
    """setuptools' sdist with objects for those who have no clang."""

    def run(self) -> None:
        for machine in PREBUILT_FOR:
            (PREBUILT / machine).mkdir(parents=True, exist_ok=True)
            compile_objects(machine, PREBUILT / machine)
        super().run()


def main() -> None:
    """`python build.py`: build in place."""
    os.chdir(ROOT)
    setup(script_args=["build_ext", "--inplace"])


if __name__ == "__main__":
    main()
