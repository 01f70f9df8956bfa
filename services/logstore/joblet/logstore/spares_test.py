import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joblet.common.errors import FailedPrecondition, InvalidArgument
from joblet.logstore.index import Entry, Kind, append, encode
from joblet.logstore.indexheader import HEADER
from joblet.logstore.layout import LogDirectory, LogSize

JOB = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
OTHER = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[LogDirectory]:
    with closing(LogDirectory(tmp_path / "logs")) as logs:
        yield logs


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_spare_becomes_a_log_that_does_not_differ_from_another(logs: LogDirectory, tmp_path: Path) -> None:
    with closing(logs.spares.make()) as spare:
        assert names(tmp_path / "logs") == [spare.name]
        logs.name_spare(spare.name, JOB)
        assert len(logs.spares) == 0
        os.write(spare.output, b"hello")
        append(spare.index, encode(Entry(5, 1, Kind.DATA)))
    assert logs.job_ids() == [JOB]
    assert logs.size(JOB) == LogSize(5, ended=False)
    assert logs.finish(JOB) == 5
    logs.open_for_writing(OTHER).close()
    modes = [
        [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in (directory, *sorted(directory.iterdir()))][1:]
        for directory in (tmp_path / "logs" / JOB, tmp_path / "logs" / OTHER)
    ]
    assert modes == [[("index", 0o600), ("output", 0o600)]] * 2
    assert (tmp_path / "logs" / JOB).stat().st_mode == (tmp_path / "logs" / OTHER).stat().st_mode
    assert (tmp_path / "logs" / OTHER / "index").read_bytes() == HEADER


def test_a_spare_is_no_log(logs: LogDirectory) -> None:
    with closing(logs.spares.make()) as spare:
        assert logs.job_ids() == logs.sweep() == []
        refused: list[Callable[[str], object]] = [
            logs.open_for_reading, logs.open_for_writing, logs.size, logs.state, logs.finish, logs.delete,
        ]  # fmt: skip
        for call in refused:
            with pytest.raises(InvalidArgument):
                call(spare.name)


def test_naming_may_be_repeated(logs: LogDirectory) -> None:
    with closing(logs.spares.make()) as spare:
        logs.name_spare(spare.name, JOB)
        os.write(spare.output, b"hello")
        logs.name_spare(spare.name, JOB)
        assert logs.size(JOB) == LogSize(5, ended=False)


def test_a_spare_that_is_gone_is_no_log(logs: LogDirectory, tmp_path: Path) -> None:
    with closing(logs.spares.make()) as spare:
        shutil.rmtree(tmp_path / "logs" / spare.name)
        with pytest.raises(FailedPrecondition, match=f"there is no spare log {spare.name}"):
            logs.name_spare(spare.name, JOB)
        assert logs.job_ids() == []


@pytest.mark.parametrize("leftover", [(), ("output",), ("output", "index.new"), ("output", "index")])
def test_what_an_earlier_attempt_left_is_replaced(
    logs: LogDirectory, tmp_path: Path, leftover: tuple[str, ...]
) -> None:
    directory = tmp_path / "logs" / JOB
    directory.mkdir()
    for name in leftover:
        (directory / name).write_bytes(HEADER if name == "index" else b"")
    with closing(logs.spares.make()) as spare:
        logs.name_spare(spare.name, JOB)
        os.write(spare.output, b"hello")
    assert names(directory) == ["index", "output"]
    assert logs.size(JOB) == LogSize(5, ended=False)
    assert names(tmp_path / "logs") == [JOB]


def test_output_is_never_replaced(logs: LogDirectory) -> None:
    with closing(logs.open_for_writing(JOB)) as files:
        os.write(files.output, b"x")
    with closing(logs.spares.make()) as spare:
        with pytest.raises(FailedPrecondition, match=f"job {JOB} has written output already"):
            logs.name_spare(spare.name, JOB)
        assert logs.finish(JOB) == 1
        with pytest.raises(FailedPrecondition, match=f"the output of job {JOB} has ended"):
            logs.name_spare(spare.name, JOB)
    assert logs.size(JOB) == LogSize(1, ended=True)


def test_a_spare_goes_when_nobody_holds_it(logs: LogDirectory, tmp_path: Path) -> None:
    with closing(logs.spares.make()) as held:
        logs.spares.make().close()
        copy = os.dup(held.output)  # as init has one
        assert logs.spares.sweep() == 1
        assert names(tmp_path / "logs") == [held.name]
    assert logs.spares.sweep() == 0
    os.close(copy)
    assert logs.spares.sweep() == 1
    assert names(tmp_path / "logs") == []


def test_a_later_logstore_finds_the_spares(logs: LogDirectory, tmp_path: Path) -> None:
    with closing(logs.spares.make()) as held, closing(logs.spares.make()) as taken:
        logs.spares.make().close()
        with closing(LogDirectory(tmp_path / "logs")) as later:
            assert len(later.spares) == 3
            assert later.spares.sweep() == 1
            later.name_spare(taken.name, JOB)
            assert names(tmp_path / "logs") == [JOB, held.name]


@pytest.mark.parametrize(
    "made", [{}, {"output": b""}, {"output": b"", "index": HEADER[:7]}, {"output": b"", "index": HEADER}]
)
def test_a_spare_whose_making_was_interrupted_goes(tmp_path: Path, made: dict[str, bytes]) -> None:
    spare = tmp_path / "logs" / "spare-0123456789abcdef"
    spare.mkdir(parents=True)
    for name, content in made.items():
        (spare / name).write_bytes(content)
    with closing(LogDirectory(tmp_path / "logs")) as logs:
        assert logs.spares.sweep() == 1
        assert logs.job_ids() == []
    assert names(tmp_path / "logs") == []


def test_directories_of_others_stay(tmp_path: Path) -> None:
    for name in ("spare-0123", "spare-0123456789ABCDEF", "spares", JOB):
        (tmp_path / "logs" / name).mkdir(parents=True)
    with closing(LogDirectory(tmp_path / "logs")) as logs:
        assert logs.spares.sweep() == 0
    assert len(names(tmp_path / "logs")) == 4
