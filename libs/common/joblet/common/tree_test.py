"""Trees that are safe to unpack pass, all others are refused by the name of what is wrong in them."""

import io
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblet.common import tree
from joblet.common.errors import InvalidArgument
from joblet.common.property_fixture import at_any_pace
from joblet.common.tree import Entry, Kind

Item = tuple[Entry, bytes]


def file(path: bytes, content: bytes = b"x", mode: int = 0o644) -> Item:
    return Entry(path, Kind.FILE, mode, len(content)), content


def directory(path: bytes, mode: int = 0o755) -> Item:
    return Entry(path, Kind.DIRECTORY, mode), b""


def leave(path: bytes, mode: int = 0o755) -> Item:
    return Entry(path, Kind.LEAVE, mode), b""


def link(path: bytes, target: bytes) -> Item:
    return Entry(path, Kind.LINK, 0o777, len(target)), target


def archive(items: Iterable[Item]) -> io.BytesIO:
    return io.BytesIO(tree.MAGIC + b"".join(tree.header(entry) + content for entry, content in items))


GOOD = (
    directory(b"a"), file(b"a/ \n\xff", b"content"), link(b"a/up", b"../b"), leave(b"a", 0o500),
    file(b"b", b""), link(b"here", b"./a/x"),
)  # fmt: skip


def test_a_good_tree() -> None:
    assert tree.check(archive(GOOD)) == tree.Summary(entries=5, content_bytes=7 + 4 + 5)
    read = list(tree.entries(archive(GOOD)))
    assert [(entry.path, entry.kind, entry.mode, entry.size) for entry in read] == [
        (entry.path, entry.kind, entry.mode, entry.size) for entry, _ in GOOD
    ]
    whole = archive(GOOD)
    assert [whole.getvalue()[entry.content : entry.end] for entry in read] == [content for _, content in GOOD]
    assert list(tree.entries(whole, read[2].end)) == read[3:], "a place to go on from"


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([file(b"../x")], '"../x": the path contains ".."'),
        ([file(b"/etc/x")], '"/etc/x": the path is absolute'),
        ([file(b"")], "the path is empty"),
        ([directory(b"a"), file(b"a//b")], "empty part"),
        ([directory(b"a"), file(b"a/./b")], "empty part"),
        ([directory(b"a"), file(b"a/../../b")], 'contains ".."'),
        ([file(b"n" * 256)], "too long"),
        ([file(b"a/b")], "does not come before it"),
        ([file(b"a"), file(b"a/b")], "does not come before it"),
        ([link(b"a", b"b"), file(b"a/b")], "does not come before it"),
        ([directory(b"a"), leave(b"a"), file(b"a/b")], "has been left"),
        ([leave(b"a")], "not entered"),
        ([directory(b"a"), leave(b"a"), leave(b"a")], "not entered"),
        ([directory(b"a"), leave(b"a", 0o4755)], "not entered"),
        ([file(b"a"), file(b"a")], "twice"),
        ([directory(b"a"), leave(b"a"), directory(b"a")], "twice"),
        ([file(b"su", mode=0o4755)], '"su": mode 4755'),
        ([(Entry(b"a", Kind.DIRECTORY, 0o755, 1), b"x")], "DIRECTORY with 1 bytes"),
        ([(Entry(b"", Kind.END, 0, 0), b"")], "empty"),
        ([link(b"a", b"/etc/passwd")], 'the absolute path "/etc/passwd"'),
        ([link(b"a", b"../x")], "leads out"),
        ([directory(b"d"), link(b"d/a", b"../../x")], "leads out"),
        ([link(b"a", b"./../x")], "leads out"),
        ([link(b"s", b"."), link(b"a", b"s/s/../..")], '".." behind a name'),
        ([link(b"a", b"")], "empty"),
        ([link(b"a", b"b\0c")], "NUL"),
    ],
)
def test_what_is_not_safe(items: list[Item], says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        tree.check(archive(items))
    assert says in str(refused.value)


@pytest.mark.parametrize("cut", range(len(archive(GOOD).getvalue())))
def test_cut_anywhere(cut: int) -> None:
    whole = archive(GOOD).getvalue()
    read = list(tree.entries(archive(GOOD)))
    if cut in [len(tree.MAGIC), *(entry.end for entry in read)]:
        assert len(list(tree.entries(io.BytesIO(whole[:cut])))) < len(read)
        return
    with pytest.raises(InvalidArgument, match="not a tree"):
        list(tree.entries(io.BytesIO(whole[:cut])))


@at_any_pace
@given(st.binary(max_size=200))
def test_anything_else_is_no_tree_or_a_safe_one(data: bytes) -> None:
    for start in (b"", tree.MAGIC):
        try:
            tree.check(io.BytesIO(start + data))
        except InvalidArgument:
            continue


def test_names_cannot_garble_a_terminal() -> None:
    assert tree.quoted(b"a\n\x1b[31m\xff") == r'"a\n\x1b[31m\xff"'
