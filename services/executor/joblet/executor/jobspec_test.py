"""The launch spec and messages byte for byte, and that Python and C hold the same numbers."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from joblet.common.errors import Internal, InvalidArgument
from joblet.executor import exitrecord, jobspec
from joblet.executor.jobspec import (
    GO,
    Fd,
    LaunchFlag,
    LaunchSpec,
    Message,
    MessageType,
    Profile,
    Stage,
    Upload,
    UploadKind,
    _with_directories,
)

GOLDEN = Path(__file__).parent / "testdata" / "launchspec-v2.golden"
HEADER = Path(__file__).parents[2] / "jobinit" / "jobinit.h"
SPEC = LaunchSpec(
    command="python3",
    args=["-c", "print('ä')", ""],
    env={"PATH": "/usr/bin:/bin", "EMPTY": ""},
    hostname="job-1",
    workdir="/work/src",
    host_uid=0x70000000 + 1000,
    host_gid=0x70000000 + 1000,
    profile=Profile.DEFAULT,
    flags=LaunchFlag.NEW_NETWORK | LaunchFlag.OOM_EVENT,
    cgroup_version=1,
    init_fds=2,
    payload_fds=3,
    timeout_ms=3_600_000,
    grace_ms=100,
    tmp_bytes=64 << 20,
    work_bytes=128 << 20,
    shm_bytes=16 << 20,
    tmpfs_inodes=4096,
    nofile=1024,
    outputs=["*.log", "results/**"],
    output_bytes=1 << 30,
    output_ms=60_000,
    output_files=1000,
    uploads=[
        Upload("src/main.py", 0o644, 12),
        Upload("empty", 0o700, kind=UploadKind.DIRECTORY),
        Upload("src/link", 0o777, 7, UploadKind.LINK),
        Upload("large", 0o600, 1 << 33, UploadKind.CONTENT),
        Upload("tree", 0o750, 4096, UploadKind.TREE),
    ],
)


def test_golden() -> None:
    assert SPEC.encode() == GOLDEN.read_bytes()


def test_missing_parents_are_added_once_before_their_first_use() -> None:
    files = [Upload("a/b/c", 0o644, 1), Upload("a/d", 0o644, 1)]
    listed = [Upload("e", 0o700, kind=UploadKind.DIRECTORY), Upload("e/f", 0o600)]
    parents = [Upload("a", 0o755, kind=UploadKind.DIRECTORY), Upload("a/b", 0o755, kind=UploadKind.DIRECTORY)]
    assert (
        replace(SPEC, uploads=[*files, *listed]).encode() == replace(SPEC, uploads=[*parents, *files, *listed]).encode()
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"command": ""}, "command"),
        ({"command": "a\0b"}, "args"),
        ({"args": ["a\0b"]}, "args"),
        ({"args": ["x"] * 70000}, "args"),
        ({"args": ["x" * (9 << 20)]}, "args"),
        ({"env": {"A=B": "c"}}, "env"),
        ({"env": {"": "c"}}, "env"),
        ({"hostname": ""}, "hostname"),
        ({"hostname": "h" * 65}, "hostname"),
        ({"workdir": "work"}, "workdir"),
        ({"payload_fds": 31}, "init_fds"),
        ({"uploads": [Upload(f"f{n}", 0o644, kind=UploadKind.CONTENT) for n in range(28)]}, "init_fds"),
        ({"tmp_bytes": 0}, "tmp_bytes"),
        ({"tmpfs_inodes": 0}, "tmpfs_inodes"),
        ({"timeout_ms": -1}, None),
        ({"host_uid": 1 << 32}, None),
        ({"log_rate": 1 << 32}, None),
        ({"uploads": [Upload("../x", 0o644)]}, "uploads"),
        ({"uploads": [Upload("a/../../x", 0o644)]}, "uploads"),
        ({"uploads": [Upload("/etc/x", 0o644)]}, "uploads"),
        ({"uploads": [Upload("", 0o644)]}, "uploads"),
        ({"uploads": [Upload("a//b", 0o644)]}, "uploads"),
        ({"uploads": [Upload(".", 0o755, kind=UploadKind.DIRECTORY)]}, "uploads"),
        ({"uploads": [Upload("d", 0o755, 1, UploadKind.DIRECTORY)]}, "uploads"),
    ],
)
def test_what_jobinit_would_refuse_is_refused_by_name(changes: dict[str, object], field: str | None) -> None:
    with pytest.raises(InvalidArgument) as caught:
        replace(SPEC, **changes).encode()  # type: ignore[arg-type]
    assert caught.value.field == field


def test_messages() -> None:
    message = Message(MessageType.ERROR, Stage.WORKDIR, 2, "/work/nowhere")
    assert Message.decode(message.encode()) == message
    assert len(GO) == Message.SIZE
    assert Message.decode(GO).type is MessageType.GO
    assert Message.decode(Message(MessageType.ERROR, detail="x" * 300).encode()).detail == "x" * 255


@pytest.mark.parametrize("data", [b"", b"\1", GO[:-1], GO + b"\0", b"\xff" * Message.SIZE, b"\0" * Message.SIZE])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(Internal):
        Message.decode(data)


def test_every_stage_says_what_it_does() -> None:
    assert len({stage.action for stage in Stage}) == len(Stage)


def test_modes_of_directories_come_last_and_the_innermost_first() -> None:
    spec = replace(SPEC, uploads=[Upload("a/b", 0o500, kind=UploadKind.DIRECTORY), Upload("a/b/c", 0o644)])
    table = [*_with_directories(spec.uploads)]
    assert [(upload.path, upload.mode, upload.kind.name) for upload in table] == [
        ("a", 0o755, "DIRECTORY"), ("a/b", 0o500, "DIRECTORY"), ("a/b/c", 0o644, "FILE"),
        ("a/b", 0o500, "LEAVE"), ("a", 0o755, "LEAVE"),
    ]  # fmt: skip


def constants(prefix: str) -> dict[str, int]:
    """The enum constants of jobinit.h with this prefix, without it."""
    found = re.findall(rf"\b{prefix}_(\w+) = (0x[0-9a-f]+|\d+(?: << \d+)?)", HEADER.read_text())
    return {name: eval(value) for name, value in found}


@pytest.mark.parametrize(
    ("prefix", "ours"),
    [
        ("MSG", {kind.name: kind.value for kind in MessageType}),
        ("STAGE", {stage.name: stage.value for stage in Stage if stage}),
        ("UPLOAD", {kind.name: kind.value for kind in UploadKind}),
        ("PROFILE", {profile.name: profile.value for profile in Profile}),
        ("REASON", {reason.name: reason.value for reason in exitrecord.EndReason}),
    ],
)
def test_numbers_are_those_of_the_c_header(prefix: str, ours: dict[str, int]) -> None:
    assert constants(prefix) == ours


def test_flags_descriptors_and_limits_are_those_of_the_c_header() -> None:
    flags = constants("LAUNCH")
    assert flags.pop("ALL") == sum(flags.values())
    assert flags == {flag.name: flag.value for flag in LaunchFlag}
    descriptors = constants("FD")
    assert {fd.name: fd.value for fd in Fd} == {fd.name: descriptors[fd.name] for fd in Fd}
    assert descriptors["CGROUP_MAX"] == jobspec.MAX_CGROUP_FDS
    assert descriptors["PIPE_READ"] >= Fd.CGROUP + jobspec.MAX_CGROUP_FDS, "places overlap"
    spec = constants("SPEC")
    assert (spec["MAX_BYTES"], spec["MAX_STRINGS"]) == (jobspec.MAX_SPEC_BYTES, jobspec.MAX_STRINGS)
    assert spec["MAX_OUTPUTS"] == jobspec.MAX_OUTPUTS
    record = constants("RECORD")
    assert {flag.name: record[flag.name or ""] for flag in exitrecord.RecordFlag} == {
        flag.name: flag.value for flag in exitrecord.RecordFlag
    }
