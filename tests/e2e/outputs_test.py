"""What a job declared as its outputs is kept whatever its end, comes back as it was, and harms nobody.

JBTEST_TREE_MB sets how much the large outputs are, as in files_test.py.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from files_test import MEGABYTE, TREE_MB, fill, odd_tree, size, tree_hash
from gate import gate
from local_system import LocalSystem, wait_for

pytestmark = pytest.mark.root

TRIES = 5


def ended(joblet: LocalSystem, job_id: str) -> dict[str, str]:
    joblet.rnx("job", "wait", job_id)
    return joblet.status(job_id)


def kept(joblet: LocalSystem, job_id: str) -> list[str]:
    """The paths that `rnx job get --list` shows."""
    files = joblet.json("job", "get", "--list", job_id)["files"]
    assert isinstance(files, list)
    return sorted(file["path"] for file in files)


def test_a_tree_goes_up_and_comes_back(joblet: LocalSystem, tmp_path: Path) -> None:
    root = odd_tree(tmp_path)
    job_id = joblet.run("--upload-dir", root, "--output", "odd", "touch", "-d", "@1000000000.5", "odd/nothing")
    assert ended(joblet, job_id)["Status"] == "COMPLETED"
    joblet.output("job", "get", job_id, "-o", tmp_path / "back")
    assert tree_hash(tmp_path / "back" / "odd") == tree_hash(root)
    assert (tmp_path / "back" / "odd" / "nothing").stat().st_mtime == 1000000000.5
    one = joblet.rnx("job", "get", job_id, "odd/deep/er/file", "-o", "-")
    assert one.stdout == b"deep"


def test_patterns(joblet: LocalSystem) -> None:
    script = "mkdir -p a/b/c logs; for f in x.log a/y.log a/b/z.log a/b/c/data logs/l1 '[q'; do echo > \"$f\"; done"
    for patterns, expected in (
        (["*.log"], ["x.log"]),
        (["**/*.log"], ["a/b/z.log", "a/y.log", "x.log"]),
        (["a/*/z.*", "logs"], ["a/b/z.log", "logs", "logs/l1"]),
        (["a/**/data"], ["a/b/c/data"]),
        (["[!w-y].log", "?.log"], ["x.log"]),
        (["\\[q", "nothing/like/this"], ["[q"]),
        (["**"], ["[q", "a", "a/b", "a/b/c", "a/b/c/data", "a/b/z.log", "a/y.log", "logs", "logs/l1", "x.log"]),
    ):
        job_id = joblet.run(*(f"--output={pattern}" for pattern in patterns), "sh", "-c", script)
        ended(joblet, job_id)
        assert kept(joblet, job_id) == expected, patterns


@pytest.mark.parametrize(
    ("flags", "script", "state"),
    [
        ([], "exit 3", "FAILED"),
        (["--timeout=8s"], "sleep 1000", "STOPPED"),  # time enough for a busy machine to get to the sleep
        (["--max-memory=32"], "head -c 200m /dev/zero | tail -c 190m", "FAILED"),
    ],
    ids=["failure", "timeout", "out of memory"],
)
def test_after_a_bad_end(joblet: LocalSystem, flags: list[str], script: str, state: str) -> None:
    job_id = joblet.run(*flags, "--output", "result", "sh", "-c", f"echo kept > result; {script}")
    assert ended(joblet, job_id)["Status"] == state
    assert joblet.rnx("job", "get", job_id, "result", "-o", "-").stdout == b"kept\n"


def test_after_a_stop(joblet: LocalSystem) -> None:
    job_id = joblet.run("--output", "result", "sh", "-c", "echo kept > result; echo ready; sleep 1000")
    wait_for("the job's word", lambda: joblet.rnx("job", "log", "--no-follow", job_id).stdout)
    joblet.output("job", "stop", job_id)
    assert joblet.rnx("job", "get", job_id, "result", "-o", "-").stdout == b"kept\n"


HOSTILE = """\
import os, socket
os.symlink("/etc/passwd", "passwd")
os.symlink("../../../../../etc", "etc")
os.symlink(".", "loop")
os.mkfifo("fifo")
s = socket.socket(socket.AF_UNIX); s.bind("socket")
with open("huge", "wb") as f: f.truncate(1 << 44)
with open("secret", "w") as f: f.write("mine")
os.chmod("secret", 0)
os.link("secret", "again")
os.mkdir("closed"); open("closed/inside", "w").close(); os.chmod("closed", 0)
deep = os.open(".", os.O_RDONLY)
for _ in range(200):
    os.mkdir("d", dir_fd=deep); deep = os.open("d", os.O_RDONLY, dir_fd=deep)
"""


def test_nothing_a_job_leaves_does_harm(joblet: LocalSystem, tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    job_id = joblet.run("--upload", tmp_path / "hostile.py", "--output", "**", "python3", "hostile.py")
    status = ended(joblet, job_id)
    assert status["Status"] == "COMPLETED", joblet.log(job_id)
    message = joblet.json("job", "status", job_id)["message"]
    assert isinstance(message, str)
    assert message.startswith("outputs left out: 4 ("), message
    names = kept(joblet, job_id)
    assert {"passwd", "etc", "loop", "secret", "again", "closed", "closed/inside", "hostile.py"} <= set(names)
    assert not {"fifo", "socket", "huge"} & set(names)
    done = joblet.rnx("job", "get", job_id, "-o", tmp_path / "here")
    assert done.returncode == 1
    assert b'"passwd": the link leads to the absolute path "/etc/passwd"; left out' in done.stderr
    assert b'"etc": the link leads out' in done.stderr
    assert not os.path.lexists(tmp_path / "here" / "passwd")
    assert (tmp_path / "here" / "secret").read_text() == "mine"


def test_a_million_files_are_bounded_and_said(joblet: LocalSystem) -> None:
    script = "import os\nfor n in range(150_000): open(f'f{n}', 'w').close()"
    job_id = joblet.run("--max-memory=1024", "--max-cpu=0", "--output", "**", "python3", "-c", script)
    ended(joblet, job_id)
    message = joblet.json("job", "status", job_id)["message"]
    assert isinstance(message, str)
    assert message.startswith("outputs left out: 50000 ("), message
    assert "too many files" in message


def test_patterns_that_find_nothing_and_a_path_that_is_not_there(joblet: LocalSystem, tmp_path: Path) -> None:
    job_id = joblet.run("--output", "*.log", "--output", "x/**", "true")
    ended(joblet, job_id)
    done = joblet.rnx("job", "get", job_id, "-o", tmp_path / "here")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b'nothing to keep was found for "*.log", "x/**"' in done.stderr
    assert kept(joblet, job_id) == []
    some = joblet.run("--output", "*", "sh", "-c", "echo > there")
    ended(joblet, some)
    for flags in (["--list"], ["-o", str(tmp_path / "here")], ["-o", "-"]):
        done = joblet.rnx("job", "get", some, "absent", *flags)
        assert (done.returncode, done.stdout) == (4, b"")
        assert b"no such output of job " in done.stderr
        assert b': "absent"' in done.stderr


def test_a_viewer_may_fetch_and_nobody_before_the_end(joblet: LocalSystem) -> None:
    job_id = joblet.run("--output", "*", "sh", "-c", "echo > x; echo ready; sleep 1000")
    wait_for("the job's word", lambda: joblet.rnx("job", "log", "--no-follow", job_id).stdout)
    early = joblet.rnx("job", "get", job_id)
    assert b"job has not ended" in early.stderr
    joblet.output("job", "stop", job_id)
    viewer = [f"--{name}={joblet.certificates}/viewer-client-{name}.pem" for name in ("cert", "key")]
    assert joblet.rnx("job", "get", "--list", job_id, *viewer).returncode == 0
    none = joblet.run("true")
    ended(joblet, none)
    assert b"no outputs are kept of job" in joblet.rnx("job", "get", none).stderr


def test_outputs_go_with_their_job(joblet: LocalSystem) -> None:
    job_id = joblet.run("--output", "x", "sh", "-c", "echo > x")
    ended(joblet, job_id)
    kept_here = joblet.directory / "state/executor/outputs" / job_id
    assert kept_here.exists()
    joblet.output("job", "delete", job_id)
    wait_for("outputs removed", lambda: not kept_here.exists())


def test_a_large_tree_up_and_down_with_the_services_memory_flat(own_joblet: LocalSystem, tmp_path: Path) -> None:
    fill(tmp_path / "tree", TREE_MB, 97)
    before = anonymous(own_joblet)
    job_id = own_joblet.run(
        "--upload-dir", tmp_path / "tree", "--output", "tree", f"--max-memory={2 * TREE_MB + 256}", "true"
    )
    ended(own_joblet, job_id)
    own_joblet.output("job", "get", job_id, "-o", tmp_path / "back", timeout_seconds=600)
    after = anonymous(own_joblet)
    assert tree_hash(tmp_path / "back" / "tree") == tree_hash(tmp_path / "tree")
    grown = {name: (after[name] - before[name]) / MEGABYTE for name in before}
    print(f"{TREE_MB} MB up and down, peak memory grown by (MB):", {name: round(mb, 1) for name, mb in grown.items()})
    assert max(grown.values()) < 48, grown


def anonymous(joblet: LocalSystem) -> dict[str, int]:
    """The most memory that each service has had, VmHWM of proc(5), bytes."""
    peaks = {}
    for name, pid in joblet.pids().items():
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peaks[name] = int(line.split()[1]) * 1024
    return peaks


def killed_while_collecting(joblet: LocalSystem, tree: Path) -> tuple[str, bool]:
    """A job whose executor was killed when its outputs were seen to be collected; whether they still were then."""
    pid = wait_for("the executor of this try", lambda: joblet.serving().get("executor"))
    with gate() as end:
        script = f"cat </dev/tcp/127.0.0.1/{end.port}"
        job_id = joblet.run("--upload-dir", tree, "--output", "tree", "bash", "-c", script)
        end.wait_for()
        partial = joblet.directory / "state/executor/jobs" / job_id / "outputs.tmp"
        whole = partial.with_name("outputs")
        end.open()
        while not size(partial) and not whole.exists() and partial.parent.exists():
            pass  # it takes a few hundredths of a second: no time to sleep
        os.kill(pid, signal.SIGKILL)
        return job_id, partial.exists()


def test_a_kill_in_the_middle_of_collecting(own_joblet: LocalSystem, tmp_path: Path) -> None:
    fill(tmp_path / "tree", 48, 200)
    for _ in range(TRIES):
        job_id, in_the_middle = killed_while_collecting(own_joblet, tmp_path / "tree")
        if in_the_middle:
            break
    else:
        pytest.fail(f"{TRIES} times the outputs were collected before the executor was dead")
    assert ended(own_joblet, job_id)["Status"] == "COMPLETED"
    own_joblet.output("job", "get", job_id, "-o", tmp_path / "back")
    assert tree_hash(tmp_path / "back" / "tree") == tree_hash(tmp_path / "tree")
