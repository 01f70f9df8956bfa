"""Files and directories arrive in a job as they are, whatever is killed meanwhile, and nothing grows by their size.

JBTEST_TREE_MB sets how much the large tree holds, 64 unless set; the proof at full size is 1024.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from limited import WORK_MB, Limited
from local_system import CALL_SECONDS, CLEAN_ENVIRONMENT, RNX, LocalSystem, wait_for

pytestmark = pytest.mark.root

MEGABYTE = 1 << 20
TRIES = 5
TREE_MB = int(os.environ.get("JBTEST_TREE_MB", "64"))
# What a job says of a tree: kind, mode, name and target of everything, and the digest of every file. sort is bytewise.
HASH = """\
cd "$1" && export LC_ALL=C && {
  find . -mindepth 1 ! -type l -printf '%y %m %p\\0' | sort -z
  find . -type l -printf '%y %p %l\\0' | sort -z
  find . -type f -print0 | sort -z | xargs -0r sha256sum -z
} | sha256sum"""


def tree_hash(directory: Path) -> str:
    """As a job computes it, here."""
    done = subprocess.run(["sh", "-c", HASH, "sh", directory], capture_output=True, check=True, timeout=300)
    return done.stdout.decode()


def fill(directory: Path, megabytes: int, files: int) -> None:
    """Files that do not compress, in sub-directories, of sizes that are no multiples of anything."""
    each = megabytes * MEGABYTE // files
    for number in range(files):
        file = directory / f"d{number % 7}" / f"e{number % 3}" / f"file-{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as out:
            for start in range(0, each + number, MEGABYTE):
                out.write(os.urandom(min(MEGABYTE, each + number - start)))


def odd_tree(directory: Path) -> Path:
    """Everything a name, a mode and a link may be."""
    root = directory / "odd"
    (root / "empty").mkdir(parents=True)
    (root / "deep" / "er" / "est").mkdir(parents=True)
    for raw in (b" ", b"two\nlines", b"-rf", b"\xff\xfe", b"*", b"q\"'\\", "ä".encode(), b"x" * 255):
        Path(os.fsdecode(os.fsencode(root) + b"/" + raw)).write_bytes(raw)
    (root / "nothing").touch()
    (root / "deep" / "er" / "file").write_bytes(b"deep")
    (root / "deep" / "link").symlink_to("../nothing")
    (root / "deep" / "er" / "est" / "dangling").symlink_to("nowhere")
    for name, mode in (("nothing", 0o600), ("deep/er/file", 0o751), ("deep/er/est", 0o500), ("empty", 0o711)):
        (root / name).chmod(mode)
    return root


def hashed_by_a_job(joblet: LocalSystem, *flags: str | Path, name: str) -> str:
    job_id = joblet.run(*flags, "sh", "-c", HASH, "sh", f"/work/{name}")
    output = joblet.log(job_id).decode()
    assert joblet.status(job_id)["Status"] == "COMPLETED", output
    return output


def test_a_tree_arrives_as_it_is(joblet: LocalSystem, tmp_path: Path) -> None:
    root = odd_tree(tmp_path)
    assert hashed_by_a_job(joblet, "--upload-dir", root, name="odd") == tree_hash(root)
    again = joblet.run(
        "--upload-dir", root, "--upload-dir", root / "empty", "sh", "-c", "ls /work; id -u; stat -c %u odd"
    )
    assert joblet.log(again) == b"empty\nodd\n1000\n1000\n"


def test_the_contents_of_the_current_directory(joblet: LocalSystem, tmp_path: Path) -> None:
    root = odd_tree(tmp_path)
    done = subprocess.run(
        [
            RNX, "--config", joblet.directory / "rnx-config.yml",
            "job", "run", "--upload-dir", ".", "sh", "-c", HASH, "sh", ".",
        ],
        cwd=root, env=CLEAN_ENVIRONMENT, capture_output=True, check=True, timeout=CALL_SECONDS,
    )  # fmt: skip
    job_id = done.stdout.decode().splitlines()[1].removeprefix("ID: ")
    assert joblet.log(job_id).decode() == tree_hash(root)


def test_a_large_file_arrives_beside_small_ones(joblet: LocalSystem, tmp_path: Path) -> None:
    content = os.urandom(5 * MEGABYTE + 3)
    (tmp_path / "large").write_bytes(content)
    (tmp_path / "large").chmod(0o640)
    (tmp_path / "small").write_bytes(b"small\n")
    job_id = joblet.run(
        "--upload", tmp_path / "small", "--upload", tmp_path / "large",
        "sh", "-c", "cat small; sha256sum < large; stat -c '%a %s' large",
    )  # fmt: skip
    assert joblet.log(job_id).decode() == f"small\n{hashlib.sha256(content).hexdigest()}  -\n640 {len(content)}\n"


def test_the_same_tree_is_stored_once(joblet: LocalSystem, tmp_path: Path) -> None:
    fill(tmp_path / "same", 2, 5)
    before = stored(joblet)
    for _ in range(3):
        hashed_by_a_job(joblet, "--upload-dir", tmp_path / "same", name="same")
    assert len(stored(joblet) - before) == 1


def test_what_no_node_can_take_is_refused_before_anything_is_stored(limited: Limited, tmp_path: Path) -> None:
    system = limited.system
    before = kept(system)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(65 * MEGABYTE)
    for flags, hint in (
        (["--max-memory=128"], f"workSizeMb leaves {WORK_MB} MB"),
        (["--max-memory=8", "--schedule=1h"], "maxMemory leaves 8 MB"),
    ):
        done = system.rnx("job", "run", *flags, "--upload", tmp_path / "sparse", "true")
        assert done.returncode != 0
        says = done.stderr.decode()
        assert 'uploads of 65.0 MB do not fit into the job\'s /work: "sparse" has 65.0 MB' in says
        assert hint in says
    for flag in ("--cpu-cores=999", "--max-processes=2147483647", "--max-cpu=1000000", "--max-memory=2000000000"):
        assert system.rnx("job", "run", flag, "true").returncode != 0
    assert kept(system) == before


def kept(joblet: LocalSystem) -> tuple[list[str], set[str]]:
    """The ids of all jobs, and the gateway's contents."""
    return [line.split()[0] for line in joblet.output("job", "list").splitlines()], stored(joblet)


def stored(joblet: LocalSystem) -> set[str]:
    """The gateway's contents."""
    return set(os.listdir(joblet.directory / "state/gateway/uploads"))


@pytest.mark.parametrize("service", ["gateway", "executor"])
def test_a_kill_in_the_middle_of_an_upload(own_joblet: LocalSystem, tmp_path: Path, service: str) -> None:
    where = own_joblet.directory / ("state/gateway/uploads" if service == "gateway" else "state/executor/contents")
    for number in range(TRIES):
        tree = tmp_path / f"{number}/tree"
        fill(tree, 48, 20)
        with killed_while_receiving(where, own_joblet.pids()[service]) as killed:
            output = hashed_by_a_job(own_joblet, "--upload-dir", tree, name="tree")
        assert output == tree_hash(tree)
        wait_for("nothing half", lambda: not list(where.glob("*.tmp")))
        if killed.is_set():
            return
    pytest.fail(f"{TRIES} times nothing was seen arriving")


@contextmanager
def killed_while_receiving(directory: Path, pid: int) -> Iterator[threading.Event]:
    """kill -9 once something is seen arriving in `directory`; it may have arrived before anybody looked."""
    stop = threading.Event()
    killed = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if any(size(file) > MEGABYTE for file in directory.glob("*.tmp")):
                os.kill(pid, signal.SIGKILL)
                killed.set()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        stop.set()
        watcher.join()


def size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
