"""QEMU as the guest, without KVM: Debian's kernel for clouds on two emulated CPUs, for what user-mode Linux lacks.

The host's files come by virtiofs. The kernel and its modules are in build/guest/kernel, where `run` unpacks them; the
initramfs made here holds the modules and `boot.c`.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guest.uml import Command

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[2] / "build/guest"
DEFAULT = (
    "services/executor/joblet/executor/cgroup/driver_root_test.py",
    "services/executor/joblet/executor/launch_root_test.py",
    *("-k", "core or attested_and_runs"),
)
"""What needs the cpuset controller or a second CPU."""

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
MODULES = (
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "fuse",
    "virtiofs", "overlay", "loop",
)  # fmt: skip
"""In the order they have to be loaded."""
END_SECONDS = 10.0
_FILE, _DIRECTORY, _RUNS = 0o100644, 0o040755, 0o100755


@contextmanager
def command(directory: Path, share: Path, disk: Path, memory_mib: int) -> Iterator[Command]:
    """The guest's command; the server of its files runs meanwhile."""
    socket, initramfs = directory / "files.sock", directory / "initramfs"
    write_initramfs(initramfs)
    (kernel,) = BUILD.glob("kernel/boot/vmlinuz-*")
    line = (
        "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off tsc=reliable rdinit=/boot "
        f"guest_init={HERE / 'init'} guest_share={share} guest_disk=/dev/vda"
    )
    arguments = [
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-accel", "tcg,thread=multi", "-machine", "q35,memory-backend=memory", "-cpu", "max,la57=off", "-smp", "2"),
        *("-m", str(memory_mib), "-object", f"memory-backend-memfd,id=memory,size={memory_mib}M,share=on"),
        *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", line),
        *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"),
        *("-chardev", f"socket,id=files,path={socket}", "-device", "vhost-user-fs-pci,chardev=files,tag=host"),
    ]
    with file_server(socket):
        yield Command(arguments)


@contextmanager
def file_server(socket: Path) -> Iterator[None]:
    """Serves the host's root to one guest; it ends with the guest by itself."""
    process = subprocess.Popen(
        [VIRTIOFSD, f"--socket-path={socket}", "-o", "source=/,cache=always,sandbox=chroot"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        for line in process.stderr:  # it says so when its socket is there
            if b"Waiting for vhost-user socket connection" in line:
                break
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.stderr.close()
        process.wait(END_SECONDS)


def write_initramfs(path: Path) -> None:
    entries = [("boot", _RUNS, (BUILD / "boot").read_bytes()), ("modules", _DIRECTORY, b"")]
    for number, name in enumerate(MODULES):
        (module,) = BUILD.glob(f"kernel/lib/modules/*/kernel/**/{name}.ko")
        entries.append((f"modules/{number:02}-{name}", _FILE, module.read_bytes()))
    path.write_bytes(b"".join(cpio_entry(*entry) for entry in (*entries, ("TRAILER!!!", 0, b""))))


def cpio_entry(name: str, mode: int, content: bytes) -> bytes:
    """One file of an archive in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    header = ("070701" + "".join(f"{field:08x}" for field in fields) + name + "\0").encode()
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
