# SPDX-License-Identifier: MIT
"""A guest whose init is systemd: Debian's kernel, and the host's files below a layer that is in memory only."""

from __future__ import annotations

import lzma
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.guest import SHARE, Unavailable, archive, check_host, kernel_dir, log_tail

KERNEL = "6.12"
SYSTEMD = Path("/lib/systemd/systemd")
MODULES = "9p", "9pnet_virtio", "overlay", "nf_tables", "veth"
PYTHON = "/opt/python"
APPLICATION = "/opt/application"
MASKED = "systemd-tmpfiles-setup", "systemd-tmpfiles-setup-dev", "systemd-sysusers", "systemd-update-utmp"
"""Units that nothing here needs, and that take long over 9p."""
INIT = """#!/busybox sh
/busybox mkdir -p /bin /dev /proc /host /memory /root
/busybox --install -s /bin
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in /modules/*; do insmod $module; done
mount -t 9p -o ro,version=9p2000.L,trans=virtio,msize=512000,cache=loose host /host
mount -t tmpfs memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root
for place in etc/systemd root tmp var/lib/systemd var/log var/tmp; do
mkdir -p /root/$place
mount -t tmpfs -o mode=1777 memory /root/$place
done
: >/root/etc/fstab
rm -f /root/.dockerenv /root/run/.containerenv
mkdir -p /root$PYTHON
mount --bind "/host$PYTHON_HERE" /root$PYTHON
# Some are links elsewhere on the host.
cd /files
find . -type f -exec rm -f /root/{} \\;
cp -a . /root/
exec switch_root /root /lib/systemd/systemd
"""
SERVICE = """[Unit]
Wants=basic.target
After=basic.target
FailureAction=poweroff-force
SuccessAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/bash /script
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
"""


def boot(script: str, application: Path, files: Mapping[str, str], scratch: Path, timeout_s: float) -> str:
    """What a bash script wrote that systemd ran as root; Unavailable says why there can be no such guest.

    Python is in /opt/python, the application's folder is in /opt/application; the other files are by absolute path.
    """
    check_host()
    if missing := [tool for tool in ("cpio", "gzip") if not shutil.which(tool)]:
        raise Unavailable(f"a guest with systemd needs {', '.join(missing)}")
    if not SYSTEMD.exists():
        raise Unavailable(f"no {SYSTEMD}")
    tree = kernel_dir(KERNEL)
    first = scratch / "root.gz"
    first.write_bytes(archive(_laid_out(scratch / "first", tree, script, application, files)))
    (image,) = tree.glob("boot/vmlinuz-*")
    console, said = scratch / "console.log", scratch / "said"
    settings = ("unit=script.service", "show_status=no", *(f"mask={unit}.service" for unit in MASKED))
    options = " ".join(f"systemd.{setting}" for setting in settings)
    command: list[str | Path] = [
        *("qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-smp", "1", "-m", "1G", "-display", "none"),
        *("-no-reboot", "-nic", "none", "-kernel", image, "-initrd", first),
        *("-serial", f"file:{console}", "-serial", f"file:{said}"),
        *("-virtfs", f"local,path=/,mount_tag=host,{SHARE}"),
        *("-append", f"console=ttyS0 rdinit=/init loglevel=4 panic=-1 {options}"),
    ]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=True)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(
            f"not done in {timeout_s:.0f} s\n{log_tail(said)}\n{log_tail(console)}"
        ) from error
    return said.read_text(errors="replace").replace("\r", "")


def _laid_out(folder: Path, kernel: Path, script: str, application: Path, files: Mapping[str, str]) -> Path:
    """The first file system: busybox, the modules that the real one takes, and what is laid over that."""
    modules = folder / "modules"
    modules.mkdir(parents=True)
    for number, path in enumerate(_modules(kernel)):
        data = path.read_bytes()
        name = f"{number:02}-{path.name.removesuffix('.xz')}"
        (modules / name).write_bytes(lzma.decompress(data) if path.suffix == ".xz" else data)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, folder / "busybox")
    variables = {"PYTHON": PYTHON, "APPLICATION": APPLICATION, "PYTHON_HERE": sys.base_prefix}
    settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    first, _, rest = INIT.partition("\n")
    (folder / "init").write_text(f"{first}\n{settings}{rest}")
    (folder / "init").chmod(0o755)
    laid = {
        **files,
        "/script": script,
        "/etc/machine-id": f"{'5' * 32}\n",
        "/etc/systemd/system/script.service": SERVICE,
    }
    for name, text in laid.items():
        path = folder / "files" / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    shutil.copytree(application, folder / "files" / APPLICATION.lstrip("/"), dirs_exist_ok=True)
    return folder


def _modules(kernel: Path) -> list[Path]:
    """Paths of modules and of what they need, in the order in which they are loaded."""
    (version,) = (path.name for path in (kernel / "lib/modules").iterdir())
    found: dict[Path, None] = {}
    for module in MODULES:
        done = subprocess.run(
            ["modprobe", "-d", kernel, "-S", version, "--show-depends", module],
            capture_output=True,
            text=True,
            check=True,
        )
        found |= dict.fromkeys(map(Path, re.findall(r"^insmod (\S+)", done.stdout, re.MULTILINE)))
    return list(found)
