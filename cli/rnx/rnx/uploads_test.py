"""What rnx sends of files and directories, and what it refuses by name before it sends anything."""

import io
import os
import socket
from pathlib import Path

import pytest

from joblet.common import tree
from joblet.common.contents import CHUNK_BYTES
from joblet.common.tree import Kind
from rnx import params, uploads
from rnx.errors import BadUsage
from rnx.uploads import Large, Small


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with everything that may be in one."""
    root = tmp_path / "src"
    (root / "empty").mkdir(parents=True)
    (root / "locked").mkdir()
    (root / "locked" / "file").write_bytes(b"content")
    (root / "b").write_bytes(os.urandom(CHUNK_BYTES + 17))
    (root / "a name\nof two lines").write_bytes(b"x")
    (root / "tool").write_bytes(b"#!/bin/sh\n")
    (root / "tool").chmod(0o755)
    (root / "link").symlink_to("locked/file")
    (root / "locked" / "up").symlink_to("../tool")
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff"))).write_bytes(b"bytes")
    (root / "locked").chmod(0o500)
    return root


def only(sources: list[uploads.Source]) -> Large:
    (found,) = sources
    assert isinstance(found, Large)
    return found


def test_a_directory_is_a_safe_tree_in_whole_chunks(source: Path) -> None:
    large = only(uploads.plan([], [source]))
    pieces = list(large.chunks())
    archive = io.BytesIO(b"".join(pieces))
    assert (large.path, large.is_directory, large.size) == ("src", True, len(archive.getvalue()))
    assert all(len(piece) == CHUNK_BYTES for piece in pieces[:-1])
    tree.check(archive)
    assert [(entry.path, entry.kind) for entry in tree.entries(archive)] == [
        (b"a name\nof two lines", Kind.FILE), (b"b", Kind.FILE), (b"empty", Kind.DIRECTORY), (b"empty", Kind.LEAVE),
        (b"link", Kind.LINK), (b"locked", Kind.DIRECTORY), (b"locked/file", Kind.FILE), (b"locked/up", Kind.LINK),
        (b"locked", Kind.LEAVE), (b"tool", Kind.FILE), (b"\xff", Kind.FILE),
    ]  # fmt: skip
    assert b"".join(large.chunks()) == archive.getvalue(), "as often as asked for"


def test_small_files_travel_in_the_request_as_long_as_they_fit(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).write_bytes(bytes(params.INLINE_BYTES // 2))
    plan = uploads.plan([tmp_path / name for name in ("one", "two", "three")], [])
    assert [type(source) for source in plan] == [Small, Large, Large]
    assert [type(source) for source in uploads.plan([tmp_path / "one"], [], room=1000)] == [Large]


@pytest.mark.parametrize(("name", "target"), [("src", "src"), ("src/", "src"), ("./src", "src"), (".", ".")])
def test_where_a_directory_goes(source: Path, monkeypatch: pytest.MonkeyPatch, name: str, target: str) -> None:
    monkeypatch.chdir(source.parent if name != "." else source)
    assert only(uploads.plan([], [Path(name)])).path == target


def test_special_files_are_refused_by_name(source: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(BadUsage, match='"pipe": it is a FIFO'):
        uploads.plan([], [source])
    (source / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "sock"))
        with pytest.raises(BadUsage, match='"sock": it is a socket'):
            uploads.plan([], [source])


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("/etc/passwd", "absolute path"),
        ("../..", "leads out"),
        ("locked/../../x", "behind a name"),
        ("..", "leads out"),
    ],
)
def test_links_that_lead_out_are_refused_by_name(source: Path, target: str, says: str) -> None:
    (source / "evil").symlink_to(target)
    with pytest.raises(BadUsage, match=f'"evil": .*{says}'):
        uploads.plan([], [source])


def test_set_user_id_is_refused_by_name(source: Path) -> None:
    (source / "tool").chmod(0o4755)
    with pytest.raises(BadUsage, match="tool: it has the set-user-ID"):
        uploads.plan([], [source])
    with pytest.raises(BadUsage, match="tool: it has the set-user-ID"):
        uploads.plan([source / "tool"], [])


def test_what_would_be_there_twice(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "src").write_bytes(b"")
    (tmp_path / "x" / "tool").write_bytes(b"")
    with pytest.raises(BadUsage, match=r"--upload-dir .*src: there is already a file of the name src \(--upload "):
        uploads.plan([tmp_path / "x" / "src"], [source])
    with pytest.raises(BadUsage, match="already a file of the name src"):
        uploads.plan([], [source, tmp_path / "x" / ".." / "src"])
    monkeypatch.chdir(source)
    with pytest.raises(BadUsage, match="already a file of the name tool"):
        uploads.plan([tmp_path / "x" / "tool"], [Path()])


def test_what_is_no_directory(source: Path) -> None:
    with pytest.raises(BadUsage, match="not a directory"):
        uploads.plan([], [source / "tool"])
    with pytest.raises(BadUsage, match="no such file"):
        uploads.plan([], [source / "nowhere"])
    with pytest.raises(BadUsage, match="no name"):
        uploads.plan([], [source / ".."])


def test_a_file_that_changes_meanwhile_is_named(source: Path) -> None:
    large = only(uploads.plan([], [source]))
    (source / "tool").write_bytes(b"longer than it was")
    with pytest.raises(BadUsage, match="tool: it was changed"):
        list(large.chunks())
