"""rnx local: several systems side by side, ports refused by name, and nothing left after down."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import leftovers
import pytest
from local_system import LocalSystem, local_system, run_rnx, wait_for

pytestmark = pytest.mark.root


def is_running(system: LocalSystem, job_id: str) -> bool:
    """Whether rnx shows the job as RUNNING."""
    return system.status(job_id)["Status"] == "RUNNING"


def test_down_leaves_nothing_also_with_jobs_running(tmp_path: Path) -> None:
    before = leftovers.snapshot()
    with local_system(tmp_path / "jbtest") as system:
        for network in ("host", "none"):
            job = system.run(f"--network={network}", "sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000")
            wait_for("RUNNING", partial(is_running, system, job))
        assert leftovers.snapshot() - before, "the snapshot must see a running system"
    assert leftovers.since(before) == frozenset()


def test_two_systems_side_by_side(tmp_path: Path) -> None:
    with local_system(tmp_path / "jbtest-a") as one, local_system(tmp_path / "jbtest-b") as two:
        first, second = one.run("echo", "one"), two.run("echo", "two")
        assert (one.log(first), two.log(second)) == (b"one\n", b"two\n")
        assert two.rnx("job", "status", first).returncode != 0
        ranges = {system.log(system.run("cat", "/proc/self/uid_map")) for system in (one, two)}
        assert len(ranges) == 2, "two systems gave their jobs the same users"


def test_history_survives_down_and_up(tmp_path: Path) -> None:
    with local_system(tmp_path / "jbtest") as system:
        job = system.run("sh", "-c", "echo kept; exit 3")
        assert system.log(job) == b"kept\n"
    with local_system(tmp_path / "jbtest") as system:
        assert system.status(job)["ExitCode"] == "3"
        assert system.log(job) == b"kept\n"


def test_a_taken_port_is_refused_by_name(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_rnx("local", "up", "--dir", tmp_path / "jbtest", "--port", str(port), "--detach")
    assert done.returncode != 0
    assert f"port {port} is already in use" in done.stderr.decode()


def test_down_twice_is_fine(tmp_path: Path) -> None:
    with local_system(tmp_path / "jbtest"):
        pass
    assert run_rnx("local", "down", "--dir", tmp_path / "jbtest").returncode == 0
