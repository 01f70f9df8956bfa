"""jobinit alone on the real kernel: launch, end, output. `JOBINIT=.../jobinit-asan` tests the sanitizer build.

What a job can see and do is in jobinit_confinement_root_test.py.
"""

import hashlib
import os
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from joblet.executor import exitrecord, syscalls
from joblet.executor.cgroup.limits import Limits
from joblet.executor.exitrecord import EndReason, RecordFlag
from joblet.executor.jobinit_for_tests import (
    DEADLINE_SECONDS,
    MIB,
    Failed,
    Job,
    Node,
    errno_of,
    node,
    read_index,
    readable,
    unlimited,
)
from joblet.executor.jobspec import Message, MessageType, Stage, Upload

pytestmark = pytest.mark.root

INDEX_INTERVAL_MS = 10
SOURCES = Path(__file__).parents[2] / "jobinit"
GOLDEN = Path(__file__).parent / "testdata" / "launchspec-v1.golden"


@pytest.fixture(scope="module", name="node")
def fixture_node() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.fixture
def job(node: Node, tmp_path: Path) -> Iterator[Job]:
    with Job(node, tmp_path / "jbtest-job", unlimited()) as made:
        yield made


@pytest.fixture
def small_log(tmp_path: Path) -> Iterator[Path]:
    """A log directory on a file system of 256 KiB."""
    directory = tmp_path / "jbtest-log"
    directory.mkdir()
    syscalls.mount("jbtest", str(directory), "tmpfs", 0, "size=256k")
    try:
        yield directory
    finally:
        syscalls.detach(str(directory))


def grow(directory: Path) -> None:
    syscalls.mount("jbtest", str(directory), "tmpfs", syscalls.MS_REMOUNT, "size=64m")


def until(true: Callable[[], bool], what: str) -> None:
    """Polls for something that gives no event."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def prints(job: Job, wanted: bytes) -> None:
    until(lambda: wanted in job.output(), f"job did not print {wanted!r}")


# ---- launch ----


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
    spec = job.spec("pwd", workdir="/work/a", uploads=[Upload("a", 0o755, is_dir=True)])
    assert job.run(spec).output == b"/work/a\n"


def test_missing_working_directory(job: Job) -> None:
    with pytest.raises(Failed) as failed:
        job.start(job.spec("pwd", workdir="/work/nowhere"))
    assert (failed.value.told.stage, errno_of(failed.value)) == (Stage.WORKDIR, "ENOENT")
    record = job.end().record
    assert (record.exit_code, record.reason, record.stage) == (125, EndReason.LAUNCH_FAILED, Stage.WORKDIR)


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

    cuts = {f"cut at {n}": data[:n] for n in (0, 1, 60, 119, 120, 130, 200, len(data) - 1)}
    return cuts | {
        "magic": with_number(0, 1),
        "version": with_number(4, 2),
        "size": with_number(8, len(data) + 1),
        "flags": with_number(12, 1 << 20),
        "cgroup version": with_number(16, 3),
        "descriptors": with_number(20, 33),
        "profile": with_number(28, 9),
        "root on the host": with_number(40, 0),
        "no command": with_number(104, 0),
        "too many arguments": with_number(104, 1 << 30),
        "too many uploads": with_number(112, 1 << 30),
        "string length": with_number(120, 1 << 31),
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
    assert [entry.kind for entry in read_index(job.log / "index")] == [2]


def test_uploads_belong_to_the_job_and_have_their_modes(job: Job) -> None:
    uploads = [
        Upload("run.sh", 0o755, 5), Upload("deep/down/data.bin", 0o640, 1 << 20), Upload("empty", 0o600),
        Upload("locked", 0o555, is_dir=True), Upload("locked/file", 0o444, 3),
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


# ---- end ----


def test_a_signal_ends_a_job(job: Job) -> None:
    record = job.run(job.spec("sh", "-c", "kill -USR1 $$")).record
    assert (record.exit_code, record.signal, record.reason) == (138, signal.SIGUSR1, EndReason.SIGNAL)


def test_what_a_job_leaves_behind_is_killed(job: Job) -> None:
    script = "setsid sh -c 'trap \"\" TERM HUP; while :; do echo x; done' & setsid sleep 1000 & sleep 0.05; exit 3"
    ended = job.run(job.spec("sh", "-c", script))
    assert (ended.record.exit_code, ended.record.reason) == (3, EndReason.EXIT)
    assert ended.output.strip(b"x\n") == b""
    assert (ended.index[-1].kind, ended.index[-1].bytes) == (2, len(ended.output))
    job.cgroup.remove()  # fails if a process is left


def test_stop_gives_the_command_its_grace(job: Job) -> None:
    job.start(job.spec("sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done"))
    prints(job, b"ready")
    job.stop()
    ended = job.end()
    assert ended.output.endswith(b"bye\n")  # before it the shell says that its child got the signal too
    record = ended.record
    assert (record.exit_code, record.signal, record.reason) == (-1, 0, EndReason.STOPPED)
    assert record.flags == RecordFlag.STARTED


def test_stop_reaches_the_whole_process_group(job: Job) -> None:
    script = "trap 'wait; exit' TERM; sh -c \"trap 'echo child; exit' TERM; echo r2; sleep 100 & wait\" & echo r1; wait"
    job.start(job.spec("sh", "-c", script, grace_ms=20000))
    prints(job, b"r1")
    prints(job, b"r2")
    job.stop()
    assert b"child" in job.end().output


def test_a_command_that_ignores_term_is_killed_after_the_grace(job: Job) -> None:
    job.start(job.spec("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done", grace_ms=150))
    prints(job, b"ready")
    began = time.monotonic()
    job.stop()
    record = job.end().record
    assert 0.14 < time.monotonic() - began < 5
    assert (record.exit_code, record.signal, record.reason) == (-1, signal.SIGKILL, EndReason.STOPPED)
    assert record.flags == RecordFlag.STARTED | RecordFlag.FORCED


def test_stop_before_the_command_is_told_to_go(job: Job) -> None:
    job.spawn(job.spec("sh", "-c", "echo ran", grace_ms=60000).encode())
    job.init()
    job.parked()
    job.stop()
    ended = job.end(seconds=10)
    assert ended.output == b""
    assert (ended.record.exit_code, ended.record.reason, ended.record.started) == (-1, EndReason.STOPPED, False)


def test_stop_as_early_as_possible(job: Job) -> None:
    job.spawn(job.spec("sh", "-c", "echo ran", grace_ms=60000).encode())
    job.init()
    job.stop()
    ended = job.end(seconds=10)
    assert ended.output == b""
    assert (ended.record.exit_code, ended.record.reason, ended.record.started) == (-1, EndReason.STOPPED, False)


def test_a_job_that_ended_before_the_stop_keeps_its_own_end(job: Job) -> None:
    job.start(job.spec("sh", "-c", "read x < /dev/ptmx & sleep 0.05; exit 9"))
    signal.pidfd_send_signal(job.pidfd, signal.SIGSTOP)  # init sees both only when it goes on
    until(lambda: is_zombie(job.command), "the command did not end")
    job.stop()
    signal.pidfd_send_signal(job.pidfd, signal.SIGCONT)
    record = job.end().record
    assert (record.exit_code, record.reason) == (9, EndReason.EXIT)


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_timeout(job: Job) -> None:
    began = time.monotonic()
    record = job.run(job.spec("sleep", "1000", timeout_ms=200)).record
    assert 0.19 < time.monotonic() - began < 5
    assert (record.exit_code, record.signal, record.reason) == (-1, signal.SIGTERM, EndReason.TIMEOUT)


def test_a_flood_of_output_can_be_stopped(job: Job) -> None:
    job.start(job.spec("sh", "-c", "trap '' TERM; yes", grace_ms=50))
    until(lambda: (job.log / "output").stat().st_size > MIB, "no flood")
    job.stop()
    ended = job.end(seconds=10)
    assert ended.record.reason is EndReason.STOPPED
    assert ended.output.strip(b"y\n") == b""


def test_a_flood_of_output_times_out(job: Job) -> None:
    ended = job.run(job.spec("yes", timeout_ms=100))
    assert ended.record.reason is EndReason.TIMEOUT
    assert ended.index[-1].bytes == len(ended.output)


def test_a_storm_of_forks_is_stopped(node: Node, tmp_path: Path) -> None:
    limits = Limits(memory_bytes=256 * MIB, max_processes=100)
    storm = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.write(1, b'r')\n"
        "while True:\n"
        "  try:\n"
        "    if os.fork() == 0: os.setsid()\n"
        "  except OSError: pass\n"
    )
    with Job(node, tmp_path / "jbtest-storm", limits) as job:
        job.start(job.spec("python3", "-ISc", storm, grace_ms=50))
        prints(job, b"r")
        job.stop()
        assert job.end().record.reason is EndReason.STOPPED
        job.cgroup.remove()  # fails if a process is left


def test_a_storm_of_zombies(job: Job) -> None:
    storm = (
        "import os\n"
        "for i in range(300):\n"
        "  if os.fork() == 0:\n"
        "    for j in range(4):\n"
        "      if os.fork() == 0: os._exit(0)\n"
        "    os._exit(0)\n"
        "  os.wait()\n"
        "print('done')\n"
    )
    ended = job.run(job.spec("python3", "-ISc", storm))
    assert (ended.output, ended.record.exit_code) == (b"done\n", 0)


def test_out_of_memory_ends_the_whole_job(node: Node, tmp_path: Path) -> None:
    limits = Limits(memory_bytes=48 * MIB, max_processes=100)
    hog = (
        "import os\n"
        "if os.fork() == 0:\n"
        "  b = bytearray(200 << 20)\n"
        "  os._exit(0)\n"
        "os.wait()\n"
        "os.write(1, b'survived')\n"
    )
    with Job(node, tmp_path / "jbtest-oom", limits) as job:
        ended = job.run(job.spec("python3", "-ISc", hog))
        assert ended.output == b""
        record = ended.record
        assert (record.exit_code, record.signal, record.reason) == (137, signal.SIGKILL, EndReason.OOM)


def test_killing_init_kills_everything(job: Job) -> None:
    job.start(job.spec("sh", "-c", "setsid sleep 1000 & echo ready; sleep 1000"))
    prints(job, b"ready")
    signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)
    assert readable(job.pidfd, DEADLINE_SECONDS)
    job.cgroup.remove()  # fails if a process is left
    assert exitrecord.read(job.directory) is None


def test_the_record_is_complete_though_its_disk_is_full(node: Node, small_log: Path) -> None:
    with Job(node, small_log / "jbtest-state", unlimited()) as job:
        job.start(job.spec("sh", "-c", "read x < /dev/ptmx"), log=job.directory)
        with suppress(OSError), (small_log / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        job.stop()
        until(lambda: exitrecord.read(job.directory) is not None, "no record")
        (small_log / "filler").unlink()
        assert job.end().record.reason is EndReason.STOPPED


def test_no_room_for_the_record_means_no_launch(node: Node, small_log: Path, tmp_path: Path) -> None:
    with Job(node, small_log / "jbtest-state", unlimited()) as job:
        with suppress(OSError), (small_log / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        log = tmp_path / "log"
        log.mkdir()
        with pytest.raises(Failed) as failed:
            job.start(job.spec("true"), log=log)
        assert (failed.value.told.stage, errno_of(failed.value)) == (Stage.RECORD, "ENOSPC")
        assert job.wait_end() == 125


# ---- output ----


def test_a_hundred_megabytes_arrive_byte_for_byte(job: Job) -> None:
    script = (
        "import hashlib, os\n"
        "block = os.urandom(1 << 20)\n"
        "digest = hashlib.sha256()\n"
        "for i in range(100):\n"
        "  part = block[i:] + block[:i] + b'.' * (i % 7)\n"
        "  digest.update(part)\n"
        "  while part: part = part[os.write(1 + i % 2, part[: 4001 + (i * 7919) % 300000]) :]\n"
        "print(digest.hexdigest())\n"
    )
    ended = job.run(job.spec("python3", "-ISc", script))
    body, digest = ended.output[:-65], ended.output[-65:-1].decode()
    assert hashlib.sha256(body).hexdigest() == digest
    totals = [entry.bytes for entry in ended.index]
    assert totals == sorted(totals)
    assert totals[-1] == len(ended.output)
    times = [entry.time_ns for entry in ended.index[:-1]]
    assert all(after - before >= INDEX_INTERVAL_MS * 900_000 for before, after in pairwise(times))


def test_tricks_with_the_pipe_lose_nothing(job: Job) -> None:
    script = (
        "import fcntl, os\n"
        "fcntl.fcntl(1, 1031, 4096)\n"  # F_SETPIPE_SZ
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_DIRECT | os.O_WRONLY)\n"  # packets
        "for i in range(3000): os.write(1, b'%d,' % i)\n"
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY)\n"
        "with open('data', 'wb') as file: file.write(bytes(range(256)) * 4000)\n"
        "with open('data', 'rb') as file:\n"
        "  left = 256 * 4000\n"
        "  while left: left -= os.splice(file.fileno(), 1, left)\n"
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK | os.O_WRONLY)\n"
        "part = b'z' * 3000000\n"
        "while part:\n"
        "  try: part = part[os.write(1, part) :]\n"
        "  except BlockingIOError: pass\n"
    )
    output = job.run(job.spec("python3", "-ISc", script)).output
    assert output == b"".join(b"%d," % i for i in range(3000)) + bytes(range(256)) * 4000 + b"z" * 3000000


def test_output_is_indexed_while_the_job_runs(job: Job) -> None:
    job.start(job.spec("sh", "-c", "echo one; read x < /dev/ptmx"))
    until(lambda: [(e.bytes, e.kind) for e in read_index(job.log / "index")] == [(4, 1)], "no index entry")
    job.stop()
    assert [(entry.bytes, entry.kind) for entry in job.end().index] == [(4, 1), (4, 2)]


def test_a_job_that_closes_its_output_costs_init_nothing(job: Job) -> None:
    job.start(job.spec("sh", "-c", "exec >&- 2>&-; sleep 0.5"))
    assert job.wait_end() == 0
    # What init itself used: its children are in the record.
    record = exitrecord.read(job.directory)
    assert record is not None
    assert record.reason is EndReason.EXIT
    assert job.init_cpu_seconds < 0.2


def test_a_full_disk_makes_the_job_wait(job: Job, small_log: Path) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i of the output; i=$((i+1)); done"
    job.start(job.spec("sh", "-c", script), log=small_log)
    until(lambda: (small_log / "output").stat().st_size > 240_000, "log does not grow")
    assert not readable(job.pidfd, 0.3)
    grow(small_log)
    ended = job.end()
    assert ended.output == b"".join(b"line %d of the output\n" % i for i in range(20000))
    assert (ended.record.exit_code, ended.index[-1].kind, ended.index[-1].bytes) == (0, 2, len(ended.output))


def test_a_job_waiting_for_disk_can_be_stopped_and_nothing_is_dropped(job: Job, small_log: Path) -> None:
    job.start(job.spec("yes", timeout_ms=300), log=small_log)
    until(lambda: exitrecord.read(job.directory) is not None, "timeout does not work while the disk is full")
    assert not readable(job.pidfd, 0.2), "init must wait for space"
    grow(small_log)
    ended = job.end()
    assert ended.record.reason is EndReason.TIMEOUT
    assert len(ended.output) > MIB, "the pipe's content belongs to the log"
    assert ended.output.strip(b"y\n") == b""
    assert (ended.index[-1].kind, ended.index[-1].bytes) == (2, len(ended.output))


def test_an_index_entry_cut_by_a_full_disk_is_completed(job: Job, small_log: Path) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    entry = struct.pack("<QQI", 0, 0, 1)
    entry += struct.pack("<I", zlib.crc32(entry))
    earlier = page // len(entry)  # the next entry crosses the end of the page
    (small_log / "index").write_bytes(entry * earlier)
    room = os.statvfs(small_log).f_bavail * page
    (small_log / "filler").write_bytes(bytes(room - page))  # one page is left, for the output
    job.start(job.spec("sh", "-c", "echo hello; read x < /dev/ptmx"), log=small_log)
    until(lambda: (small_log / "index").stat().st_size == page, "no entry was cut")
    (small_log / "filler").unlink()
    until(lambda: (small_log / "index").stat().st_size == (earlier + 1) * len(entry), "not completed")
    job.stop()
    assert [(e.bytes, e.kind) for e in job.end().index[earlier:]] == [(6, 1), (6, 2)]


# ---- the spec parser under the sanitizers ----


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
