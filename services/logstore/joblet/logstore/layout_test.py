import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joblet.common.errors import FailedPrecondition, InvalidArgument, JobNotFound
from joblet.logstore.index import Entry, IndexDamaged, IndexReader, Kind, append, encode
from joblet.logstore.indexheader import BLOCK_SIZE, HEADER
from joblet.logstore.layout import LogDirectory, LogSize
from joblet.logstore.output import open_log
from joblet.logstore.sealed import seal

JOB = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
OTHER = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[LogDirectory]:
    with closing(LogDirectory(tmp_path / "logs")) as logs:
        yield logs


def entries(index: Path) -> list[Entry]:
    fd = os.open(index, os.O_RDONLY)
    try:
        return IndexReader(fd).poll()
    finally:
        os.close(fd)


def write(logs: LogDirectory, content: bytes, *kinds: Kind) -> None:
    with closing(logs.open_for_writing(JOB)) as files:
        os.write(files.output, content)
        for kind in kinds:
            append(files.index, encode(Entry(len(content), 1, kind)))


def test_a_new_log_is_empty_private_and_has_a_header(logs: LogDirectory, tmp_path: Path) -> None:
    logs.open_for_writing(JOB).close()
    directory = tmp_path / "logs" / JOB
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory.parent, directory, *directory.iterdir())
    }
    assert modes == {"logs": 0o700, JOB: 0o700, "output": 0o600, "index": 0o600}
    assert (directory / "output").read_bytes() == b""
    assert (directory / "index").read_bytes() == HEADER


def test_the_output_can_be_spliced_to_and_the_index_only_appended_to(logs: LogDirectory) -> None:
    with closing(logs.open_for_writing(JOB)) as files:
        output, index = (fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (files.output, files.index))
        assert output & os.O_ACCMODE == os.O_WRONLY and not output & os.O_APPEND
        assert index & os.O_ACCMODE == os.O_WRONLY and index & os.O_APPEND
        assert not os.get_inheritable(files.output) and not os.get_inheritable(files.index)


def test_opening_again_gives_the_same_files_untouched(logs: LogDirectory) -> None:
    write(logs, b"hello", Kind.DATA)
    with closing(logs.open_for_writing(JOB)):
        assert logs.size(JOB) == LogSize(5, ended=False)


def test_a_log_whose_creation_was_interrupted_is_completed(logs: LogDirectory, tmp_path: Path) -> None:
    directory = tmp_path / "logs" / JOB
    directory.mkdir()
    (directory / "index.new").write_bytes(HEADER[:7])
    with pytest.raises(JobNotFound):
        logs.size(JOB)
    logs.open_for_writing(JOB).close()
    assert sorted(path.name for path in directory.iterdir()) == ["index", "output"]
    assert logs.size(JOB) == LogSize(0, ended=False)


def test_ended_output_is_not_opened_for_writing_again(logs: LogDirectory) -> None:
    write(logs, b"hello", Kind.END)
    with pytest.raises(FailedPrecondition, match=f"the output of job {JOB} has ended"):
        logs.open_for_writing(JOB)


def test_finish_appends_the_end_once(logs: LogDirectory, tmp_path: Path) -> None:
    write(logs, b"hello world", Kind.DATA)
    assert logs.finish(JOB) == 11
    assert logs.finish(JOB) == 11
    found = entries(tmp_path / "logs" / JOB / "index")
    assert [(entry.total_bytes, entry.kind) for entry in found] == [(11, Kind.DATA), (11, Kind.END)]
    assert logs.size(JOB) == LogSize(11, ended=True)


@pytest.mark.parametrize("torn", [b"\x05", bytes(23), b"x" * 24, bytes(240), b"x" * 24 + bytes(100)])
def test_finish_cuts_a_torn_tail_off_before_it_appends(logs: LogDirectory, tmp_path: Path, torn: bytes) -> None:
    write(logs, b"hello world", Kind.DATA)
    index = tmp_path / "logs" / JOB / "index"
    index.write_bytes(index.read_bytes() + torn)
    assert logs.finish(JOB) == 11
    assert [entry.kind for entry in entries(index)] == [Kind.DATA, Kind.END]


def test_finish_says_what_is_damaged(logs: LogDirectory, tmp_path: Path) -> None:
    write(logs, b"hello world", Kind.DATA)
    index = tmp_path / "logs" / JOB / "index"
    index.write_bytes(index.read_bytes() + b"x" * 49)
    with pytest.raises(IndexDamaged):
        logs.finish(JOB)


def test_delete_removes_everything_but_only_after_the_end(logs: LogDirectory, tmp_path: Path) -> None:
    write(logs, b"hello")
    with pytest.raises(FailedPrecondition, match="still being written"):
        logs.delete(JOB)
    logs.finish(JOB)
    logs.delete(JOB)
    assert list((tmp_path / "logs").iterdir()) == []
    with pytest.raises(JobNotFound):
        logs.delete(JOB)


def test_a_reader_of_a_deleted_log_keeps_its_bytes(logs: LogDirectory) -> None:
    write(logs, b"hello", Kind.END)
    with closing(logs.open_for_reading(JOB)) as files:
        logs.delete(JOB)
        assert os.pread(files.output, 100, 0) == b"hello"


def test_sweep_removes_what_was_interrupted_and_nothing_else(logs: LogDirectory, tmp_path: Path) -> None:
    write(logs, b"hello")
    interrupted = tmp_path / "logs" / OTHER
    interrupted.mkdir()
    (interrupted / "output").write_bytes(b"half deleted")
    (tmp_path / "logs" / "lost+found").mkdir()
    assert logs.sweep() == [OTHER]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [JOB, "lost+found"]


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "../x", "/etc", JOB + "/..", JOB[:8], JOB + "\0", "lost+found", "é" * 36]
)
def test_only_a_job_id_becomes_a_name(logs: LogDirectory, tmp_path: Path, job_id: str) -> None:
    for operation in (logs.open_for_writing, logs.open_for_reading, logs.size, logs.finish, logs.delete):
        with pytest.raises(InvalidArgument, match="invalid job id"):
            operation(job_id)
    assert list((tmp_path / "logs").iterdir()) == []


@pytest.mark.parametrize("name", ["output", "index"])
def test_symbolic_links_are_not_followed(logs: LogDirectory, tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    logs.open_for_writing(JOB).close()
    file = tmp_path / "logs" / JOB / name
    file.unlink()
    file.symlink_to(target)
    for operation in (logs.open_for_writing, logs.open_for_reading, logs.finish):
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            operation(JOB)
    (tmp_path / "logs" / OTHER).symlink_to(tmp_path)
    with pytest.raises(OSError, match="Not a directory"):
        logs.open_for_writing(OTHER)
    assert target.read_bytes() == b"precious"


def test_unknown_jobs_are_named(logs: LogDirectory) -> None:
    for operation in (logs.open_for_reading, logs.size, logs.finish, logs.delete):
        with pytest.raises(JobNotFound, match=f"^job not found: {JOB}$"):
            operation(JOB)


def test_no_descriptor_is_left_open(logs: LogDirectory, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    write(logs, b"hello")
    logs.size(JOB)
    logs.finish(JOB)
    with pytest.raises(FailedPrecondition):
        logs.open_for_writing(JOB)
    (tmp_path / "logs" / JOB / "output").unlink()
    with pytest.raises(JobNotFound):
        logs.size(JOB)
    assert set(os.listdir("/proc/self/fd")) <= before  # what others left open may be closed by now


def sealed(logs: LogDirectory) -> None:
    with closing(logs.begin_sealing(JOB)) as sealing:
        seal(sealing, threading.Event())
    logs.commit_sealing(JOB)


def test_sealing_puts_one_file_in_the_place_of_another(logs: LogDirectory, tmp_path: Path) -> None:
    write(logs, b"hello", Kind.END)
    sealed(logs)
    assert {path.name for path in (tmp_path / "logs" / JOB).iterdir()} == {"sealed", "index"}
    state = logs.state(JOB)
    assert (state.total_bytes, state.ended_ns, state.sealed, state.waiting) == (5, 1, True, False)
    assert (logs.size(JOB), logs.finish(JOB)) == (LogSize(5, ended=True), 5)
    with pytest.raises(FailedPrecondition):
        logs.open_for_writing(JOB)
    with pytest.raises(JobNotFound):
        logs.begin_sealing(JOB)
    assert {path.name for path in (tmp_path / "logs" / JOB).iterdir()} == {"sealed", "index"}
    logs.delete(JOB)
    assert not (tmp_path / "logs" / JOB).exists()


def test_only_ended_output_is_sealed(logs: LogDirectory, tmp_path: Path) -> None:
    write(logs, b"hello", Kind.DATA)
    with pytest.raises(FailedPrecondition, match="has not ended"):
        logs.begin_sealing(JOB)
    assert {path.name for path in (tmp_path / "logs" / JOB).iterdir()} == {"output", "index"}


def test_sealing_that_was_killed_leaves_one_of_the_two(logs: LogDirectory, tmp_path: Path) -> None:
    """Every state of the directory that a crash can leave; the start puts it right."""
    directory = tmp_path / "logs" / JOB
    write(logs, b"hello", Kind.END)
    with closing(logs.begin_sealing(JOB)) as sealing:
        os.write(sealing.into, b"half")
    assert logs.sweep() == []
    assert {path.name for path in directory.iterdir()} == {"output", "index"}
    output = (directory / "output").read_bytes()
    sealed(logs)
    (directory / "output").write_bytes(output)  # renamed, and killed before the output went
    with closing(open_log(logs.open_for_reading(JOB))) as log:
        assert log.output.read(0, 10) == b"hello"
    assert logs.sweep() == []
    assert {path.name for path in directory.iterdir()} == {"sealed", "index"}
    with closing(open_log(logs.open_for_reading(JOB))) as log:
        assert log.output.read(0, 10) == b"hello"


def test_a_removed_front_is_remembered_before_it_is_gone(logs: LogDirectory, tmp_path: Path) -> None:
    content = bytes(range(256)) * 64  # four blocks
    write(logs, content, Kind.DATA)
    assert logs.remove_front(JOB, 2 * BLOCK_SIZE + 5) == 2 * BLOCK_SIZE
    assert logs.remove_front(JOB, BLOCK_SIZE) == 0
    state = logs.state(JOB)
    assert (state.first, state.total_bytes, state.ended_ns) == (2 * BLOCK_SIZE, len(content), None)
    output = tmp_path / "logs" / JOB / "output"
    assert output.stat().st_blocks * 512 < len(content)
    assert output.read_bytes() == bytes(2 * BLOCK_SIZE) + content[2 * BLOCK_SIZE :]
    with closing(logs.open_for_writing(JOB)) as files:
        append(files.index, encode(Entry(len(content), 1, Kind.END)))
    assert logs.state(JOB).ended_ns == 1


def test_a_mark_of_the_archive_is_kept_and_goes_with_the_log(logs: LogDirectory, tmp_path: Path) -> None:
    write(logs, b"hello", Kind.END)
    assert logs.state(JOB).archive == ""
    logs.mark_archived(JOB, "s3://one")
    logs.mark_archived(JOB, "s3://a")
    assert logs.state(JOB).archive == "s3://a"
    logs.delete(JOB)
    assert not (tmp_path / "logs" / JOB).exists()
