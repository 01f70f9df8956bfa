from pathlib import Path

import pytest

from joblet.executor.cgroup import files


def test_write_and_read(tmp_path: Path) -> None:
    path = tmp_path / "pids.max"
    path.write_text("max\n")
    files.write(str(path), "64\n")
    assert files.read(str(path)) == "64\n\n"  # kernel files take a write whole; an ordinary one keeps its tail


def test_read_takes_more_than_one_chunk(tmp_path: Path) -> None:
    path = tmp_path / "cgroup.procs"
    text = "12345\n" * 30_000
    path.write_text(text)
    assert files.read(str(path)) == text


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 40000])
def test_a_value_is_read_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "io.stat"
    path.write_text("x" * size)
    assert files.value(str(path)) == "x" * size


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "missing")
    for action in (lambda: files.read(path), lambda: files.value(path), lambda: files.write(path, "1")):
        with pytest.raises(FileNotFoundError) as caught:
            action()
        assert caught.value.filename == path


def test_a_failed_write_names_the_file() -> None:
    with pytest.raises(OSError) as caught:
        files.write("/dev/full", "1")
    assert caught.value.filename == "/dev/full"


@pytest.mark.parametrize(("text", "value"), [("max\n", 0), ("-1\n", 0), ("536870912\n", 536870912)])
def test_number(text: str, value: int) -> None:
    assert files.number(text) == value


def test_keyed() -> None:
    text = "low 0\nhigh 0\nmax 17\noom 2\noom_kill 1\noom_group_kill 0\n"
    assert files.keyed(text)["oom_kill"] == 1


def test_io_max() -> None:
    text = "254:0 rbps=1048576 wbps=1048576 riops=max wiops=max\n"
    assert files.by_device(text) == {(254, 0): {"rbps": "1048576", "wbps": "1048576", "riops": "max", "wiops": "max"}}


def test_io_stat() -> None:
    text = "254:0 rbytes=8192 wbytes=4096 rios=2 wios=1 dbytes=0 dios=0\n7:0 \n"
    assert files.by_device(text)[254, 0]["wbytes"] == "4096"
    assert files.by_device(text)[7, 0] == {}


def test_operations() -> None:
    text = "254:0 Read 8192\n254:0 Write 4096\n254:0 Discard 0\n254:0 Total 12288\nTotal 12288\n"
    assert list(files.operations(text)) == [
        ((254, 0), "Read", 8192),
        ((254, 0), "Write", 4096),
        ((254, 0), "Discard", 0),
        ((254, 0), "Total", 12288),
    ]
    assert list(files.operations("Total 0\n")) == []


def test_rates() -> None:
    assert files.rates("254:0 1048576\n8:16 2097152\n") == {(254, 0): 1048576, (8, 16): 2097152}
