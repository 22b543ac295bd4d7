# SPDX-License-Identifier: MIT
"""Whether this process gets a ring buffer, asked from bpf(2) itself: then it is known also where no hook attaches."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from pyegress.doctor.finding import Finding
from pyegress.doctor.rights import is_there
from pyegress.kernel import errno_name, in_initial_user_namespace

_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
"""The number of bpf(2) by architecture."""
_MAP_CREATE = 0
_TYPE_RINGBUF = 27
"""linux/bpf.h"""
_REMEDIES = {
    errno.EINVAL: "use Linux 5.8 or newer",
    errno.ENOSYS: "use a kernel built with CONFIG_BPF_SYSCALL=y",
    errno.EMFILE: "run with `ulimit -n 1024` or LimitNOFILE=1024",
}


def ring_buffer(name: str) -> Finding:
    """Make the smallest one, and let it go."""
    call = _CALL.get(platform.machine())
    if call is None:
        return Finding(name, "unknown", "the number of bpf(2) is not known on this architecture")
    # map_type, key_size, value_size, max_entries; a whole page.
    attributes = struct.pack("=4I", _TYPE_RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE"))
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    fd = syscall(ctypes.c_long(call), ctypes.c_long(_MAP_CREATE), attributes, ctypes.c_long(len(attributes)))
    if fd >= 0:
        os.close(fd)
        return Finding(name, "works", "can be made")
    code = ctypes.get_errno()
    remedy = _forbidden() if code == errno.EPERM else _REMEDIES.get(code)
    return Finding(name, "fails", f"can't be made: {errno_name(code)}", remedy)


def _forbidden() -> str:
    if not is_there("CAP_BPF"):
        return "missing CAP_BPF: run as root, for example with sudo"
    if not in_initial_user_namespace():
        return "run on the host, outside of user namespaces"
    return "CAP_BPF is there: a seccomp filter, such as a container's, or a security module forbids it"
