import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rnx.local import processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rnx local runs on Linux only")


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that waits to be killed."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def identity_of(process: "subprocess.Popen[bytes]") -> str:
    identity = processes.identity(process.pid)
    assert identity is not None
    return identity


def test_identity_of_ourselves_and_of_nobody() -> None:
    mine = processes.identity(os.getpid())
    assert mine is not None
    assert mine.split()[0] == str(os.getpid())
    assert processes.is_alive(mine)
    assert processes.identity(2**22 + 1) is None  # above PID_MAX_LIMIT


def test_a_zombie_has_ended(child: "subprocess.Popen[bytes]") -> None:
    identity = identity_of(child)
    child.kill()
    assert processes.wait_gone(identity, 120)
    assert not processes.is_alive(identity)
    processes.send(identity, signal.SIGTERM)  # nothing to send it to: no error


def test_a_name_with_parentheses_and_spaces(tmp_path: Path) -> None:
    program = tmp_path / "a) b (c"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        try:
            assert identity_of(process).split()[0] == str(process.pid)
        finally:
            process.kill()


def test_somebody_else_with_the_same_pid_gets_no_signal(child: "subprocess.Popen[bytes]") -> None:
    stale = f"{child.pid} 1"  # started with the machine
    processes.send(stale, signal.SIGKILL)
    assert processes.wait_gone(stale, 0)
    assert processes.is_alive(identity_of(child))


def test_end_escalates() -> None:
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], stdout=-1) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        assert processes.end(identity_of(stubborn), 0.1)
    with subprocess.Popen(["sleep", "1000"]) as polite:
        assert not processes.end(identity_of(polite), 120)


def test_pid_files(tmp_path: Path) -> None:
    file = str(tmp_path / "x.pid")
    assert processes.read(file) is None
    processes.write(file, "12 34", "5")
    assert processes.read(file) == ("12 34", ["5"])
    for damaged in ("", "12", "x y"):
        Path(file).write_text(damaged)
        assert processes.read(file) is None
    processes.remove(file)
    processes.remove(file)
    assert list(tmp_path.iterdir()) == []
