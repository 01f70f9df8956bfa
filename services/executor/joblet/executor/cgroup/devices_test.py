"""A sysfs as it looks with a partitioned disk, LVM over two disks, RAID and a loop device, in a temporary folder."""

import os
from pathlib import Path

import pytest

from joblet.executor.cgroup import devices
from joblet.executor.cgroup.devices import block_devices_of, is_stacked

Device = tuple[int, int]


class FakeSysfs:
    """Disks in `devices/`, links to them in `dev/block/` as the kernel has it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.links = root / "dev" / "block"
        self.links.mkdir(parents=True)

    def add(self, name: str, device: Device, *, inside: str = "", slaves: tuple[str, ...] = ()) -> Path:
        entry = self.root / "devices" / inside / name
        entry.mkdir(parents=True)
        (entry / "dev").write_text(f"{device[0]}:{device[1]}\n")
        if inside:
            (entry / "partition").write_text("1\n")
        else:
            (entry / "slaves").mkdir()
            for slave in slaves:
                (entry / "slaves" / Path(slave).name).symlink_to(self.root / "devices" / slave)
        (self.links / f"{device[0]}:{device[1]}").symlink_to(entry)
        return entry


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    fake = FakeSysfs(tmp_path / "sys")
    fake.add("sda", (8, 0))
    fake.add("sda1", (8, 1), inside="sda")
    fake.add("sdb", (8, 16))
    fake.add("sdb1", (8, 17), inside="sdb")
    fake.add("dm-0", (253, 0), slaves=("sda/sda1", "sdb/sdb1"))
    fake.add("md0", (9, 0), slaves=("sdb",))
    fake.add("dm-1", (253, 1), slaves=("md0",))
    return fake


def disks_of(sysfs: FakeSysfs, *found: Device, monkeypatch: pytest.MonkeyPatch) -> tuple[Device, ...]:
    paths = {Path(f"/path{number}"): device for number, device in enumerate(found)}
    monkeypatch.setattr(devices, "_device_of", lambda path: paths.get(path) or _real(path))
    return block_devices_of(paths, sysfs.links)


def _real(path: Path) -> Device:
    number = path.stat().st_dev
    return os.major(number), os.minor(number)


@pytest.mark.parametrize(
    ("device", "disks"),
    [
        ((8, 0), ((8, 0),)),
        ((8, 17), ((8, 16),)),
        ((253, 0), ((8, 0), (8, 16))),
        ((253, 1), ((8, 16),)),
        ((0, 42), ()),
    ],
)
def test_disks(sysfs: FakeSysfs, device: Device, disks: tuple[Device, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert disks_of(sysfs, device, monkeypatch=monkeypatch) == disks


def test_every_disk_once(sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disks_of(sysfs, (8, 17), (8, 1), (253, 0), (0, 9), monkeypatch=monkeypatch) == ((8, 0), (8, 16))


def test_a_loop_device_stands_for_itself_and_the_disk_of_its_file(
    sysfs: FakeSysfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "volume.img"
    image.touch()
    entry = sysfs.add("loop0", (7, 0))
    (entry / "loop").mkdir()
    (entry / "loop" / "backing_file").write_text(f"{image}\n")
    sysfs.add("vda", _real(image))
    assert disks_of(sysfs, (7, 0), monkeypatch=monkeypatch) == tuple(sorted([(7, 0), _real(image)]))
    assert is_stacked((7, 0), sysfs.links)


def test_a_loop_device_without_a_known_disk_is_limited_itself(
    sysfs: FakeSysfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = sysfs.add("loop1", (7, 1))
    (entry / "loop").mkdir()
    (entry / "loop" / "backing_file").write_text(f"{tmp_path}/gone.img (deleted)\n")
    assert disks_of(sysfs, (7, 1), monkeypatch=monkeypatch) == ((7, 1),)


def test_stacked(sysfs: FakeSysfs) -> None:
    assert not is_stacked((8, 0), sysfs.links)
    assert is_stacked((253, 0), sysfs.links)
    assert not is_stacked((1, 2), sysfs.links)


def test_proc_has_no_disk() -> None:
    assert block_devices_of([Path("/proc")]) == ()


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        block_devices_of([tmp_path / "missing"])
