from pathlib import Path

import pytest

from rnx.doctor import resources
from rnx.doctor.caller import NUMBERS, Caller
from rnx.doctor.findings import Finding, Status
from rnx.doctor.resources import MIB, Place, Room

ROOT = Caller(0, frozenset(NUMBERS))


def test_a_directory_that_can_be_written_stays_as_it_is(tmp_path: Path) -> None:
    finding = resources.directory(Place("state directory", tmp_path, "executor.stateDir", 0, 0), ROOT)
    assert finding.status is Status.OK
    assert finding.found.startswith(f"{tmp_path}: writable, ")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_still_to_be_made(tmp_path: Path) -> None:
    finding = resources.directory(Place("log directory", tmp_path / "a/b", "logstore.directory", 0, 0), ROOT)
    assert finding.found.startswith(f"{tmp_path / 'a/b'} (to be made in {tmp_path}): writable, ")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = resources.directory(Place("log directory", tmp_path / "file/logs", "logstore.directory"), ROOT)
    assert (finding.status, finding.cause) == (Status.FAILED, f"{tmp_path / 'file'} is not a directory")
    assert f"`mv {tmp_path / 'file'} " in finding.cure
    assert "logstore.directory" in finding.cure


@pytest.mark.parametrize(
    ("room", "status", "cause"),
    [
        (Room(2048 * MIB, 100_000), Status.OK, ""),
        (Room(2048 * MIB, None), Status.OK, ""),
        (Room(1023 * MIB, 100_000), Status.WARNING, "soon be full"),
        (Room(2048 * MIB, 19_999), Status.WARNING, "soon be full"),
        (Room(63 * MIB, 100_000), Status.FAILED, "less than 64 MiB free"),
        (Room(2048 * MIB, 999), Status.FAILED, "less than 1000 further files"),
    ],
)
def test_what_is_left(room: Room, status: Status, cause: str) -> None:
    place = Place("log directory", Path("/logs"), "logstore.directory")
    finding = resources.left(place, "/logs", place.path, room)
    assert finding.status is status
    assert cause in finding.cause
    assert not cause or "logstore.directory" in finding.cure


@pytest.mark.parametrize(("free", "status"), [(255, Status.FAILED), (700, Status.WARNING), (768, Status.OK)])
def test_memory(free: int, status: Status) -> None:
    meminfo = f"MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: {free * 1024} kB\nHugePages_Total: 0\n"
    finding = resources.memory(meminfo, 512)
    assert finding.status is status
    assert "of 8.0 GiB available" in finding.found


@pytest.mark.parametrize(
    ("year", "synchronized", "status"),
    [
        (1970, True, Status.FAILED),
        (2024, True, Status.FAILED),
        (2101, True, Status.FAILED),
        (2030, False, Status.WARNING),
        (2030, True, Status.OK),
        (2030, None, Status.OK),
    ],
)
def test_clock(year: int, synchronized: bool | None, status: Status) -> None:
    finding = resources.clock(year, synchronized)
    assert (finding.status, str(year) in finding.found) == (status, True)
    assert (status is Status.OK) == (finding.cure == "")


@pytest.mark.parametrize(
    ("hard", "status"), [(511, Status.FAILED), (2911, Status.WARNING), (2912, Status.OK), (-1, Status.OK)]
)
def test_open_files(hard: int, status: Status) -> None:
    finding = resources.open_files(hard, 100)
    assert finding.status is status
    assert status is Status.OK or "`ulimit -n 65536`" in finding.cure


def test_processes() -> None:
    def look(pid_max: int, threads_max: int, running: int) -> Finding:
        return resources.processes(pid_max, threads_max, running, 1024)

    assert look(32768, 100_000, 200).status is Status.OK
    assert look(1000, 100_000, 10).status is Status.FAILED
    assert look(32768, 2000, 1500).status is Status.WARNING
    assert "sysctl -w kernel.pid_max=" in look(1000, 100_000, 10).cure


def test_running_tasks() -> None:
    assert resources.running_tasks("0.20 0.18 0.12 1/80 11206\n") == 80


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (2048, "2 KiB"), (1 << 29, "512 MiB"), (3 << 29, "1.5 GiB"), (3 << 40, "3.0 TiB")],
)
def test_size(count: int, text: str) -> None:
    assert resources.size(count) == text
