"""Outputs of jobs become files below one directory, whatever the stream says."""

import io
import os
from pathlib import Path

import pytest

from joblet.api.job_pb2 import OutputChunk
from joblet.common.errors import Internal
from rnx import treewrite
from rnx.errors import BadUsage
from rnx.treewrite import Written


def file(path: str, content: bytes = b"x", mode: int = 0o644, raw: bytes = b"") -> OutputChunk:
    return OutputChunk(path=path, payload=content, size=len(content), mode=mode, mtimeNs=10**18, rawPath=raw)


def directory(path: str, mode: int = 0o755) -> OutputChunk:
    return OutputChunk(path=path, isDirectory=True, mode=mode, mtimeNs=10**18)


def link(path: str, target: bytes) -> OutputChunk:
    return OutputChunk(path=path, linkTarget=target, mode=0o777)


def test_everything_as_it_was(tmp_path: Path) -> None:
    root, told = tmp_path / "new" / "root", list[str]()
    chunks = [
        directory("d", 0o500), file("d/f", b"content", 0o400), link("d/l", b"../b"), directory("d/e", 0o700),
        OutputChunk(path="b", payload=b"one", size=6, mode=0o751, mtimeNs=10**18 + 5), OutputChunk(payload=b"two"),
        file("deep/er/\\xff", raw=b"deep/er/\xff"), file("empty", b""),
    ]  # fmt: skip
    assert treewrite.write(chunks, root, told.append) == Written(count=7, refused=0)
    assert (root / "d" / "f").read_bytes() == b"content"
    assert (root / "b").read_bytes() == b"onetwo"
    assert (root / "b").stat().st_mtime_ns == 10**18 + 5
    assert [(root / name).stat().st_mode & 0o777 for name in ("d", "d/f", "b")] == [0o500, 0o400, 0o751]
    assert str((root / "d" / "l").readlink()) == "../b"
    assert os.listdir(os.fsencode(root / "deep" / "er")) == [b"\xff"]
    assert told == []
    assert treewrite.write(chunks, root, told.append) == Written(count=7, refused=0), "once more in its place"


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        (file("../x"), '".."'),
        (file("/tmp/jbtest-x"), "absolute"),
        (file("a", raw=b"a/../../x"), '".."'),
        (link("l", b"/etc/passwd"), "absolute path"),
        (link("l", b"../x"), "leads out"),
    ],
)
def test_what_leads_out_is_left_out_with_a_word(tmp_path: Path, chunk: OutputChunk, says: str) -> None:
    told: list[str] = []
    assert treewrite.write([chunk, file("good")], tmp_path / "root", told.append) == Written(count=1, refused=1)
    assert says in told[0]
    assert os.listdir(tmp_path) == ["root"]
    assert os.listdir(tmp_path / "root") == ["good"]


def test_no_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    root = tmp_path / "root"
    root.mkdir()
    (root / "f").symlink_to("../outside")
    (root / "d").symlink_to("..")
    treewrite.write([file("f", b"theirs")], root, print)
    assert (root / "f").read_bytes() == b"theirs"
    assert not (root / "f").is_symlink()
    assert (tmp_path / "outside").read_text() == "mine"
    with pytest.raises(BadUsage, match="d/outside: file exists"):
        treewrite.write([file("d/outside")], root, print)
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_directory_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(BadUsage, match="f: is a directory"):
        treewrite.write([file("f")], tmp_path, print)


@pytest.mark.parametrize("following", [[], [file("other")], [OutputChunk()], [OutputChunk(payload=b"too much of it")]])
def test_half_a_file_is_none(tmp_path: Path, following: list[OutputChunk]) -> None:
    half = OutputChunk(path="f", payload=b"half", size=8, mode=0o644)
    with pytest.raises(Internal, match="the output f ended 4 bytes too early"):
        treewrite.write([half, *following], tmp_path, print)
    assert os.listdir(tmp_path) == []


def test_one_file_to_a_stream() -> None:
    out = io.BytesIO()
    treewrite.contents(
        [
            file("f", b"con"),
        ],
        out,
    )
    assert out.getvalue() == b"con"
    for chunks in ([file("f"), file("g")], [directory("d")], [link("l", b"x")]):
        with pytest.raises(BadUsage, match="only one file"):
            treewrite.contents(chunks, io.BytesIO())
