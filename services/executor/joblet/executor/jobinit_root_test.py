"""jobinit alone on the real kernel: the launch. Its environment variable JOBINIT names another build to be tested.

The end of jobs, their output and what they can see and do: jobinit_{end,output,confinement}_root_test.py.
"""

import hashlib
import struct
import subprocess
import time
from pathlib import Path

import pytest

from joblet.common import tree
from joblet.common.tree import Entry, Kind
from joblet.executor import exitrecord
from joblet.executor.exitrecord import EndReason, RecordFlag
from joblet.executor.jobinit_for_tests import MIB, Failed, Job, errno_of, read_index, until
from joblet.executor.jobspec import Fd, Message, MessageType, Stage, Upload, UploadKind

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]

SOURCES = Path(__file__).parents[2] / "jobinit"
GOLDEN = Path(__file__).parent / "testdata" / "launchspec-v2.golden"


def test_a_job_runs_and_its_end_is_recorded(job: Job) -> None:
    before = time.time_ns()
    ended = job.run(job.spec("sh", "-c", "echo out; echo err >&2; exit 7"))
    record = ended.record
    assert ended.status == 0
    assert ended.output == b"out\nerr\n"
    assert (record.exit_code, record.signal, record.reason) == (7, 0, EndReason.EXIT)
    assert (record.stage, record.error, record.flags, record.detail) == (Stage.NONE, 0, RecordFlag.STARTED, "")
    assert before < record.start_ns < record.end_ns < time.time_ns()
    assert record.user_us + record.system_us > 0
    assert record.maxrss_bytes > MIB // 2
    assert record.oom_kills == 0
    assert (ended.index[-1].kind, ended.index[-1].bytes) == (2, len(ended.output))
    assert job.outer_status() == 0


def test_arguments_and_environment_arrive_unchanged(job: Job) -> None:
    script = "import os, sys; print(sys.argv[1:], sorted(os.environb.items()))"
    spec = job.spec("python3", "-IS", "-c", script, "", "a b", "$HOME", "\udcff", "ä" * 5000,
                    env={"PATH": "/usr/bin", "E": "", "X": "=\n"})  # fmt: skip
    expected = [["", "a b", "$HOME", "\udcff", "ä" * 5000], [(b"E", b""), (b"PATH", b"/usr/bin"), (b"X", b"=\n")]]
    seen = job.run(spec).output.decode()
    # Without a locale Python adds one itself.
    assert seen.replace("(b'LC_CTYPE', b'C.UTF-8'), ", "") == f"{expected[0]!r} {expected[1]!r}\n"


def test_many_arguments(job: Job) -> None:
    spec = job.spec("sh", "-c", "echo $#", *(["x"] * 20000))
    assert job.run(spec).output == b"19999\n"


@pytest.mark.parametrize(
    ("command", "path", "stage", "error", "code"),
    [
        ("jbtest-nowhere", "/bin", Stage.RESOLVE, "ENOENT", 127),
        ("/jbtest/nowhere", "/bin", Stage.RESOLVE, "ENOENT", 127),
        ("sh", "/etc:/nowhere", Stage.RESOLVE, "ENOENT", 127),
        ("sh", "", Stage.RESOLVE, "ENOENT", 127),
        ("passwd", "/nowhere:/etc", Stage.RESOLVE, "EACCES", 126),
        ("/etc/passwd", "/bin", Stage.RESOLVE, "EACCES", 126),
        ("/etc", "/bin", Stage.RESOLVE, "EACCES", 126),
        ("./noise", "/bin", Stage.EXEC, "ENOEXEC", 126),
        ("noise", "/bin:.", Stage.EXEC, "ENOEXEC", 126),
        ("./orphan", "/bin", Stage.EXEC, "ENOENT", 127),
    ],
)
def test_a_command_that_cannot_run(job: Job, command: str, path: str, stage: Stage, error: str, code: int) -> None:
    noise, orphan = b"\1\2\3\4noise", b"#!/jbtest/nowhere\n"
    uploads = [Upload("noise", 0o755, len(noise)), Upload("orphan", 0o755, len(orphan))]
    with pytest.raises(Failed) as failed:
        job.start(job.spec(command, env={"PATH": path}, uploads=uploads), noise + orphan)
    assert (failed.value.told.stage, errno_of(failed.value), failed.value.told.detail) == (stage, error, command)
    record = job.end().record
    assert (record.exit_code, record.reason, record.stage) == (code, EndReason.LAUNCH_FAILED, stage)
    assert (record.error, record.detail) == (failed.value.told.error, command)
    assert record.started == (stage is Stage.EXEC)


def test_path_is_searched_in_order(job: Job) -> None:
    script = b"#!/bin/sh\necho $0\n"
    uploads = [Upload("b/tool", 0o644, len(script)), Upload("c/tool", 0o755, len(script)), Upload("tool", 0o755, 0)]
    spec = job.spec("tool", env={"PATH": "/work/a:/work/b:/work/c:"}, uploads=uploads)
    assert job.run(spec, script * 2).output == b"/work/c/tool\n"


def test_working_directory(job: Job) -> None:
    spec = job.spec("pwd", workdir="/work/a", uploads=[Upload("a", 0o755, kind=UploadKind.DIRECTORY)])
    assert job.run(spec).output == b"/work/a\n"


def test_missing_working_directory(job: Job) -> None:
    with pytest.raises(Failed) as failed:
        job.start(job.spec("pwd", workdir="/work/nowhere"))
    assert (failed.value.told.stage, errno_of(failed.value)) == (Stage.WORKDIR, "ENOENT")
    record = job.end().record
    assert (record.exit_code, record.reason, record.stage) == (125, EndReason.LAUNCH_FAILED, Stage.WORKDIR)


@pytest.mark.parametrize(
    "path", [*(f"/proc/self/fd/{number}" for number in (Fd.STATE, Fd.CGROUP, Fd.CGROUP + 1, 54)), "/proc/self/root/tmp"]
)
def test_a_link_of_proc_is_no_working_directory(job: Job, path: str) -> None:
    """Descriptors of the launch are directories of the machine's: the state directory, on v2 the cgroups."""
    with pytest.raises(Failed) as failed:
        job.start(job.spec("true", workdir=path))
    assert (failed.value.told.stage, failed.value.told.detail) == (Stage.WORKDIR, path)


def test_the_executors_death_while_parked_means_that_nothing_runs(job: Job) -> None:
    job.spawn(job.spec("sh", "-c", "echo ran").encode())
    job.init()
    job.parked()
    job.control.close()
    ended = job.end()
    assert ended.output == b""
    assert (ended.record.exit_code, ended.record.reason, ended.record.stage, ended.record.started) == (
        125, EndReason.LAUNCH_FAILED, Stage.PARK, False,
    )  # fmt: skip
    assert ended.index == [], "the job may be ordered again: its log is still needed"


def test_the_executors_death_before_init_says_so(job: Job) -> None:
    job.control.close()
    job.spawn(job.spec("sh", "-c", "echo ran").encode())
    job.outer_status()
    until(lambda: exitrecord.read(job.directory) is not None, "no record")
    record = exitrecord.read(job.directory)
    assert record is not None
    assert (record.reason, record.stage, record.started) == (EndReason.LAUNCH_FAILED, Stage.CONTROL, False)


@pytest.mark.parametrize("answer", [b"", b"GO", Message(MessageType.PARKED).encode()])
def test_any_answer_but_go_means_that_nothing_runs(job: Job, answer: bytes) -> None:
    job.spawn(job.spec("sh", "-c", "echo ran").encode())
    job.init()
    job.parked()
    job.control.send(answer)
    ended = job.end()
    assert (ended.output, ended.record.exit_code, ended.record.stage) == (b"", 125, Stage.PARK)


def damaged_specs() -> dict[str, bytes]:
    data = GOLDEN.read_bytes()

    def with_number(offset: int, number: int) -> bytes:
        return data[:offset] + struct.pack("<I", number) + data[offset + 4 :]

    cuts = {f"cut at {n}": data[:n] for n in (0, 1, 60, 151, 152, 160, 220, len(data) - 1)}
    return cuts | {
        "magic": with_number(0, 1),
        "version": with_number(4, 1),
        "size": with_number(8, len(data) + 1),
        "flags": with_number(12, 1 << 20),
        "cgroup version": with_number(16, 3),
        "descriptors": with_number(20, 33),
        "profile": with_number(28, 9),
        "root on the host": with_number(40, 0),
        "no command": with_number(104, 0),
        "too many arguments": with_number(104, 1 << 30),
        "too many uploads": with_number(112, 1 << 30),
        "contents without descriptors": with_number(120, 0),
        "too many contents": with_number(120, 28),
        "too many outputs": with_number(124, 65),
        "an output too many": with_number(124, 3),
        "string length": with_number(152, 1 << 31),
        "noise": bytes(range(256)) * 4,
        "tail": data[:8] + struct.pack("<I", len(data) + 1) + data[12:] + b"x",
        "upload above": data.replace(b"src/main.py\0", b"../main.pyy\0"),
        "upload absolute": data.replace(b"src/main.py\0", b"/rc/main.py\0"),
        "upload inside above": data.replace(b"src/main.py\0", b"src/../m.py\0"),
    }


@pytest.mark.parametrize("name", damaged_specs())
def test_a_damaged_spec_is_refused_before_anything_happens(job: Job, name: str) -> None:
    job.spawn(damaged_specs()[name])
    message = Message.decode(job.control.recv(Message.SIZE))
    assert (message.type, message.stage, message.error) == (MessageType.ERROR, Stage.SPEC, 0)
    assert message.detail.startswith("spec: ")
    assert job.outer_status() == 125
    record = exitrecord.read(job.directory)
    assert record is not None
    assert (record.exit_code, record.reason, record.stage) == (125, EndReason.LAUNCH_FAILED, Stage.SPEC)
    assert record.detail == message.detail[:59]
    assert read_index(job.log / "index") == [], "the executor ends the log of a job that was never told GO"


def test_uploads_belong_to_the_job_and_have_their_modes(job: Job) -> None:
    uploads = [
        Upload("run.sh", 0o755, 5), Upload("deep/down/data.bin", 0o640, 1 << 20), Upload("empty", 0o600),
        Upload("locked", 0o555, kind=UploadKind.DIRECTORY), Upload("locked/file", 0o444, 3),
    ]  # fmt: skip
    content = b"true\n" + bytes(range(256)) * 4096 + b"abc"
    listing = "umask; find . -printf '%P %y %m %U %G %s\\n' | sort; sha256sum < deep/down/data.bin; cat locked/file"
    ended = job.run(job.spec("sh", "-c", listing, uploads=uploads), content)
    digest = hashlib.sha256(content[5:-3]).hexdigest()
    lines = ended.output.decode().splitlines()
    # find's sizes of directories are the file system's business.
    assert [line.rsplit(" ", 1)[0] if " d " in line else line for line in lines] == [
        "0022",
        " d 700 1000 1000",
        "deep d 755 1000 1000",
        "deep/down d 755 1000 1000",
        f"deep/down/data.bin f 640 1000 1000 {1 << 20}",
        "empty f 600 1000 1000 0",
        "locked d 555 1000 1000",
        "locked/file f 444 1000 1000 3",
        "run.sh f 755 1000 1000 5",
        f"{digest}  -",
        "abc",
    ]


def a_tree(*entries: tuple[Entry, bytes]) -> bytes:
    return tree.MAGIC + b"".join(tree.header(entry) + content for entry, content in entries)


def test_contents_of_their_own(job: Job) -> None:
    large = bytes(range(256)) * 8192
    entries = [
        (Entry(b"d", Kind.DIRECTORY, 0o755), b""), (Entry(b"d/e", Kind.DIRECTORY, 0), b""),
        (Entry(b"d/e/\xff", Kind.FILE, 0o444, 3), b"abc"), (Entry(b"d/e", Kind.LEAVE, 0o511), b""),
        (Entry(b"d/l", Kind.LINK, 0o777, 5), b"../d/"), (Entry(b"d", Kind.LEAVE, 0o500), b""),
    ]  # fmt: skip
    uploads = [
        Upload("small", 0o644, 5), Upload("t", 0o750, 99, UploadKind.TREE), Upload("l", 0o777, 5, UploadKind.LINK),
        Upload("large", 0o400, len(large), UploadKind.CONTENT), Upload(".", 0o755, 99, UploadKind.TREE),
    ]  # fmt: skip
    listing = "find . -printf '%P %y %m %l\\n' | LC_ALL=C sort; cat small; sha256sum < large"
    spec = job.spec("sh", "-c", listing, uploads=uploads)
    contents = [a_tree(*entries), large, a_tree((Entry(b"top", Kind.FILE, 0o600, 0), b""))]
    job.start(spec, b"smallsmall", contents=contents)
    assert job.end().output.replace(b"\xff", b"!").decode().splitlines() == [
        " d 700 ", "l l 777 small", "large f 400 ", "small f 644 ", "t d 750 ", "t/d d 500 ", "t/d/e d 511 ",
        "t/d/e/! f 444 ", "t/d/l l 777 ../d/", "top f 600 ", f"small{hashlib.sha256(large).hexdigest()}  -",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "entries",
    [
        [(Entry(b"../x", Kind.FILE, 0o644), b"")],
        [(Entry(b"/tmp/x", Kind.FILE, 0o644), b"")],
        [(Entry(b"", Kind.FILE, 0o644), b"")],
        [(Entry(b"l", Kind.LINK, 0o777, 4), b"/tmp"), (Entry(b"l/x", Kind.FILE, 0o644), b"")],
        [(Entry(b"l", Kind.LINK, 0o777, 4), b"/tmp"), (Entry(b"l/x", Kind.DIRECTORY, 0o755), b"")],
        [(Entry(b"l", Kind.LINK, 0o777, 4), b"/tmp"), (Entry(b"l/x", Kind.LINK, 0o777, 1), b"y")],
        [(Entry(b"l", Kind.LINK, 0o777, 6), b"/tmp/x"), (Entry(b"l", Kind.FILE, 0o644), b"")],
        [(Entry(b"l", Kind.LINK, 0o777, 4), b"/tmp"), (Entry(b"l", Kind.LEAVE, 0o777), b"")],
        [(Entry(b"x", Kind.FILE, 0o644), b""), (Entry(b"x", Kind.FILE, 0o644), b"")],
        [(Entry(b"x", Kind.FILE, 0o4755), b"")],
        [(Entry(b"x", Kind.FILE, 0o644, 10), b"short")],
        [(Entry(b"x", Kind.LINK, 0o777, 5000), b"y" * 5000)],
        [(Entry(b"x", Kind.END, 0), b"")],
    ],
)
def test_a_tree_that_plays_tricks_ends_the_launch(job: Job, entries: list[tuple[Entry, bytes]]) -> None:
    with pytest.raises(Failed) as failed:
        job.start(job.spec("true", uploads=[Upload("t", 0o755, 1, UploadKind.TREE)]), contents=[a_tree(*entries)])
    assert failed.value.told.stage is Stage.UPLOAD
    assert job.end().record.stage is Stage.UPLOAD


@pytest.mark.parametrize(
    ("upload", "content", "error"),
    [
        (Upload("a", 0o644, 10), b"short", "0"),
        (Upload("a", 0o644, 65 * MIB), bytes(65 * MIB), "ENOSPC"),
        (Upload("x" * 256, 0o644), b"", "ENAMETOOLONG"),
    ],
    ids=["short", "too large", "long name"],
)
def test_uploads_that_cannot_be_written(job: Job, upload: Upload, content: bytes, error: str) -> None:
    with pytest.raises(Failed) as failed:
        job.start(job.spec("true", uploads=[upload]), content)
    assert (failed.value.told.stage, errno_of(failed.value)) == (Stage.UPLOAD, error)
    assert job.end().record.stage is Stage.UPLOAD


def test_a_file_in_the_place_of_a_directory(job: Job) -> None:
    with pytest.raises(Failed) as failed:
        job.start(job.spec("true", uploads=[Upload("a", 0o644), Upload("a/b", 0o644)]))
    assert failed.value.told.stage is Stage.UPLOAD


def test_fuzzing_the_spec_parser(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "fuzz", f"OUT={tmp_path}"], cwd=SOURCES, check=True, timeout=120)
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for number, data in enumerate([GOLDEN.read_bytes(), *damaged_specs().values()]):
        if data:
            (seeds / str(number)).write_bytes(data)
    done = subprocess.run(
        [tmp_path / "fuzz-spec", "-runs=200000", "-max_total_time=10", seeds],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
