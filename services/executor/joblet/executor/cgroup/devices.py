"""From paths to the disks under them: which block devices an I/O limit has to name.

Limits are kept by whole disks, so a partition stands for its disk, and device mapper and RAID for the disks below. A
loop device stands for itself and the disk with its file: through the page cache of that file much gets by the disk.
Anonymous devices (overlay, btrfs, tmpfs, network and host filesystems) have no disk the kernel could tell us about.
Source: Documentation/ABI/testing/sysfs-block, sysfs-dev.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from joblet.executor.cgroup import files
from joblet.executor.cgroup.driver import Device

SYS_DEV_BLOCK = Path("/sys/dev/block")


def block_devices_of(paths: Iterable[Path], sys_dev_block: Path = SYS_DEV_BLOCK) -> tuple[Device, ...]:
    """The disks under `paths` (files, directories or device nodes), sorted. OSError when a path does not exist."""
    return tuple(sorted({disk for path in paths for disk in _disks(_device_of(path), sys_dev_block)}))


def is_stacked(device: Device, sys_dev_block: Path = SYS_DEV_BLOCK) -> bool:
    """Whether what goes to `device` is seen again on a device below it, so that counting both would count twice."""
    entry = sys_dev_block / f"{device[0]}:{device[1]}"
    return (entry / "loop").is_dir() or bool(_slaves(entry))


def _device_of(path: Path) -> Device:
    status = path.stat()
    number = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    return os.major(number), os.minor(number)


def _disks(device: Device, sys_dev_block: Path) -> set[Device]:
    entry = sys_dev_block / f"{device[0]}:{device[1]}"
    if not entry.exists():
        return set()
    entry = entry.resolve()
    if (entry / "partition").exists():
        entry = entry.parent
    below = {disk for lower in _lower(entry) for disk in _disks(lower, sys_dev_block)}
    if below and not (entry / "loop").is_dir():
        return below
    return {*below, files.device(files.read(str(entry / "dev")))}


def _lower(entry: Path) -> list[Device]:
    """The devices directly under a whole disk; none for a real one."""
    backing = entry / "loop" / "backing_file"
    if backing.exists():
        backing_file = Path(files.read(str(backing)).rstrip("\n"))
        # A deleted or hidden backing file cannot be looked up; the limit is then set on the loop device itself.
        return [_device_of(backing_file)] if backing_file.exists() else []
    return [files.device(files.read(str(slave / "dev"))) for slave in _slaves(entry)]


def _slaves(entry: Path) -> list[Path]:
    slaves = entry / "slaves"
    return sorted(slaves.iterdir()) if slaves.is_dir() else []
