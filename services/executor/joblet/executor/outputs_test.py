"""Outputs whole and cut anywhere, listed, read, and removed when they are old or too many."""

import asyncio
import io
import os
from pathlib import Path

import pytest

from joblet.api import job_pb2
from joblet.common import tree
from joblet.common.errors import InvalidArgument, NotFound, OutOfRange
from joblet.common.ids import new_job_id
from joblet.common.tree import Entry, Kind
from joblet.executor import outputs
from joblet.executor.job import Earlier
from joblet.executor.launch import OutputLimits
from joblet.executor.outputs import EXPECTED, PARTIAL, WHOLE, Outputs

THINGS = (
    (Entry(b"d", Kind.DIRECTORY, 0o755, mtime_ns=5), b""),
    (Entry(b"d/\xff", Kind.FILE, 0o640, 300_000, 7), bytes(range(250)) * 1200),
    (Entry(b"d", Kind.LEAVE, 0o755), b""),
    (Entry(b"l", Kind.LINK, 0o777, 3), b"d/x"),
    (Entry(b"f", Kind.FILE, 0o600, 5), b"bytes"),
)  # fmt: skip


def end(left_out: int = 0, report: bytes = b"", at: int = 0) -> bytes:
    return tree.header(Entry(b"", Kind.END, 0, len(report), left_out)) + report + at.to_bytes(8, "little")


def archive(left_out: int = 0, report: bytes = b"") -> bytes:
    body = tree.MAGIC + b"".join(tree.header(entry) + content for entry, content in THINGS)
    return body + end(left_out, report, len(body))


def store(tmp_path: Path, total: int = 1 << 30, age: float = 3600.0) -> Outputs:
    return Outputs(tmp_path / "outputs", OutputLimits(1 << 30, 1000, 10.0, total, age))


def left_by_init(tmp_path: Path, name: str, content: bytes) -> Path:
    state_dir = tmp_path / "state"
    state_dir.mkdir(exist_ok=True)
    (state_dir / name).write_bytes(content)
    return state_dir


def read(kept: Outputs, job_id: str, path: str = "", offset: int = 0) -> list[job_pb2.OutputChunk]:
    async def all_of_it() -> list[job_pb2.OutputChunk]:
        return [chunk async for chunk in kept.read(job_id, path, offset)]

    return asyncio.run(all_of_it())


def test_whole(tmp_path: Path) -> None:
    kept, job_id = store(tmp_path), new_job_id()
    assert kept.take(job_id, left_by_init(tmp_path, WHOLE, archive())) == ""
    assert kept.take(job_id, tmp_path / "state") == "", "again after a crash"
    chunks = read(kept, job_id)
    assert [(chunk.path, chunk.rawPath, chunk.mode, chunk.size) for chunk in chunks if chunk.path] == [
        ("d", b"", 0o755, 0), ("d/\\xff", b"d/\xff", 0o640, 300_000), ("l", b"", 0o777, 0), ("f", b"", 0o600, 5),
    ]  # fmt: skip
    assert b"".join(chunk.payload for chunk in chunks) == THINGS[1][1] + b"bytes"
    assert (chunks[1].mtimeNs, chunks[3].linkTarget) == (7, b"d/x")
    assert [chunk.path for chunk in read(kept, job_id, "d/") if chunk.path] == ["d", "d/\\xff"]
    assert [chunk.payload for chunk in read(kept, job_id, "f")] == [b"bytes"]
    with pytest.raises(NotFound, match='no such output of job .*: "nowhere"'):
        read(kept, job_id, "nowhere")


@pytest.mark.parametrize("path", ["", "d", "d/\udcff", "f"])
def test_going_on_behind_any_chunk(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "CHUNK_BYTES", 70_001)
    kept, job_id = store(tmp_path), new_job_id()
    kept.take(job_id, left_by_init(tmp_path, WHOLE, archive()))
    chunks = read(kept, job_id, path)
    assert len(chunks) == {"": 8, "d": 6, "d/\udcff": 5, "f": 1}[path]
    for number, chunk in enumerate(chunks, start=1):
        assert read(kept, job_id, path, chunk.next) == chunks[number:]


def test_going_on_at_any_byte(tmp_path: Path) -> None:
    """Within a file the rest of its content comes first; what is no place to go on is refused."""
    kept, job_id = store(tmp_path), new_job_id()
    kept.take(job_id, left_by_init(tmp_path, WHOLE, archive()))
    whole = archive()
    entries = list(tree.entries(io.BytesIO(whole[: -len(end())])))
    everything = b"".join(chunk.payload for chunk in read(kept, job_id))
    sent, start = 0, len(tree.MAGIC)
    for entry in entries:
        for offset in {start + 1, entry.content - 1}:
            with pytest.raises(InvalidArgument, match=f"invalid offset: {offset} is not the next of any chunk"):
                read(kept, job_id, "", offset)
        if entry.kind is Kind.FILE:
            for done in {0, 1, entry.size // 2, entry.size - 1, entry.size}:
                chunks = read(kept, job_id, "", entry.content + done)
                assert b"".join(chunk.payload for chunk in chunks) == everything[sent + done :]
            sent += entry.size
        start = entry.end
    assert read(kept, job_id, "", entries[-1].end) == []
    for offset in (entries[-1].end + 1, len(whole), 1 << 60):
        with pytest.raises(OutOfRange, match=f"offset {offset} is behind the end"):
            read(kept, job_id, "", offset)


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    report = b"too large\0huge\0it is no file, directory or link\0a\nfifo\0"
    told = store(tmp_path).take(new_job_id(), left_by_init(tmp_path, WHOLE, archive(7, report)))
    assert told == (
        'outputs left out: 7 ("huge": too large; "a\\nfifo": it is no file, directory or link, ...)'
    )  # fmt: skip


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 36, 37, 40, 300_080, 300_120, 300_160, len(archive()) - 9])
def test_half_a_tree_ends_behind_its_last_whole_entry(tmp_path: Path, cut: int) -> None:
    kept, job_id = store(tmp_path), new_job_id()
    told = kept.take(job_id, left_by_init(tmp_path, PARTIAL, archive()[:cut]))
    assert told == "outputs left out: 1 (collecting was cut off, everything behind the last one kept is missing)"
    whole = io.BytesIO(archive()[: -len(end())])
    expected = [entry.path for entry in tree.entries(whole) if entry.end <= cut]
    listed = [file.path.encode() for file in kept.page(job_id, "").files]
    assert len(listed) == len([path for path in dict.fromkeys(expected) if path])
    read(kept, job_id)


def test_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "PAGE_FILES", 3)
    kept, job_id = store(tmp_path), new_job_id()
    kept.take(job_id, left_by_init(tmp_path, WHOLE, archive()))
    first = kept.page(job_id, "")
    assert [file.path for file in first.files] == ["d", "d/\\xff", "l"]
    second = kept.page(job_id, first.nextPageToken)
    assert ([file.path for file in second.files], second.nextPageToken) == (["f"], "")
    with pytest.raises(InvalidArgument, match="invalid pageToken"):
        kept.page(job_id, "x")


def test_a_page_is_small_enough_for_a_message_whatever_the_names(tmp_path: Path) -> None:
    kept, job_id = store(tmp_path), new_job_id()
    names = [b"%04d/" % n + b"\xff" * 4000 for n in range(300)]
    body = tree.MAGIC + b"".join(tree.header(Entry(name, Kind.LINK, 0o777, 4095)) + b"t" * 4095 for name in names)
    kept.take(job_id, left_by_init(tmp_path, WHOLE, body + end(at=len(body))))
    token, listed = "", 0
    while page := kept.page(job_id, token):
        assert page.ByteSize() < outputs.PAGE_BYTES + 64 * 1024
        listed, token = listed + len(page.files), page.nextPageToken
        if not token:
            break
    assert listed == len(names)


def test_a_token_into_the_middle_of_a_file_gets_no_more_than_a_message(tmp_path: Path) -> None:
    """Where a job has put what looks like a link with a huge target."""
    kept, job_id = store(tmp_path), new_job_id()
    forged = tree.header(Entry(b"x", Kind.LINK, 0o777, 8 << 20))
    content = forged + bytes(9 << 20)
    body = tree.MAGIC + tree.header(Entry(b"f", Kind.FILE, 0o600, len(content))) + content
    kept.take(job_id, left_by_init(tmp_path, WHOLE, body + end(at=len(body))))
    with pytest.raises(InvalidArgument, match="a link with a target of"):
        kept.page(job_id, str(body.index(forged)))


def test_one_file_of_many_is_found_without_keeping_others_from_their_turn(tmp_path: Path) -> None:
    kept, job_id = store(tmp_path), new_job_id()
    body = tree.MAGIC + b"".join(tree.header(Entry(b"%d" % n, Kind.FILE, 0o600)) for n in range(5000))
    kept.take(job_id, left_by_init(tmp_path, WHOLE, body + end(at=len(body))))

    async def turns() -> int:
        number = 0
        done = asyncio.Event()

        async def others() -> None:
            nonlocal number
            while not done.is_set():
                number += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(others())
            assert [chunk.path async for chunk in kept.read(job_id, "4999")] == ["4999"]
            done.set()
        return number

    assert asyncio.run(turns()) >= 5000 // 200


def test_damage_is_told(tmp_path: Path) -> None:
    for content in (
        archive()[:-8] + bytes(8),
        archive() + len(archive() + bytes(8)).to_bytes(8, "little"),
        b"JBTREE1\n",
    ):
        with pytest.raises((ValueError, OSError)):
            store(tmp_path).take(new_job_id(), left_by_init(tmp_path, WHOLE, content))


def test_nothing_kept(tmp_path: Path) -> None:
    kept = store(tmp_path)
    with pytest.raises(NotFound, match="no outputs are kept"):
        kept.page(new_job_id(), "")
    with pytest.raises(InvalidArgument, match="invalid job id"):
        kept.page("../../etc", "")
    kept.remove(new_job_id())


def test_the_old_go_and_then_the_oldest_of_too_much(tmp_path: Path) -> None:
    kept = store(tmp_path, total=2 * len(archive()), age=1000.0)
    jobs = [new_job_id() for _ in range(4)]
    for job_id in jobs:
        kept.take(job_id, left_by_init(tmp_path, WHOLE, archive()))
        os.utime(tmp_path / "outputs" / job_id, None)
    there = {entry.name for entry in (tmp_path / "outputs").iterdir()}
    assert len(there) == 2
    assert jobs[-1] in there
    os.utime(tmp_path / "outputs" / jobs[-1], (1, 1))
    kept.sweep()
    assert {entry.name for entry in (tmp_path / "outputs").iterdir()} == there - {jobs[-1]}


def attempts(tmp_path: Path, kept: Outputs, count: int) -> tuple[list[str], str]:
    """So many attempts of one job, one after the other: their ids, and what the last one's end says."""
    jobs: list[str] = []
    said = ""
    for _ in range(count):
        jobs.append(new_job_id())
        state_dir = left_by_init(tmp_path, PARTIAL, b"")
        kept.expect(state_dir, [Earlier(number, job_id) for number, job_id in enumerate(jobs[:-1], start=1)])
        (state_dir / PARTIAL).unlink()
        left_by_init(tmp_path, WHOLE, archive())
        said = kept.take(jobs[-1], state_dir)
    return jobs, said


ONE_BYTES = len(archive()) - len(tree.MAGIC) - len(end())  # as collect.c counts: names, but no frame


@pytest.mark.parametrize(
    ("limit_bytes", "files"), [(3 * ONE_BYTES - 1, 1000), (1 << 30, 3 * 4 - 1)], ids=["bytes", "files"]
)
def test_all_attempts_together_have_what_one_job_may_keep(tmp_path: Path, limit_bytes: int, files: int) -> None:
    kept = Outputs(tmp_path / "outputs", OutputLimits(limit_bytes, files, 10.0, 1 << 30, 3600.0))
    jobs, said = attempts(tmp_path, kept, 4)
    assert said == "outputs removed of attempt 2: with those of later ones they are more than one job may keep"
    assert kept.sizes(jobs) == dict.fromkeys(jobs[2:], len(archive()))
    again = kept.take(jobs[3], tmp_path / "state")
    assert again == said, "after a crash, when the end has not been told"


def test_attempts_that_fit_stay(tmp_path: Path) -> None:
    kept = Outputs(tmp_path / "outputs", OutputLimits(3 * ONE_BYTES, 3 * 4, 10.0, 1 << 30, 3600.0))
    jobs, said = attempts(tmp_path, kept, 3)
    assert (said, len(kept.sizes(jobs))) == ("", 3)


def test_a_job_that_declared_outputs_is_known_by_its_directory(tmp_path: Path) -> None:
    kept = store(tmp_path)
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    assert not kept.expected(state_dir)
    kept.expect(state_dir)
    assert sorted(path.name for path in state_dir.iterdir()) == [EXPECTED, PARTIAL]
    kept.take(new_job_id(), state_dir)
    assert kept.expected(state_dir), "until the end has been told: a crash may come before that"
