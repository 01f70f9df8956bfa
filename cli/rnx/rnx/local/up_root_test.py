"""rnx local with the real services: what goes wrong around it. tests/e2e has what goes right."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rnx.local import ports, processes, remains
from rnx.local.layout import SERVICES, Layout, layout_of

pytestmark = pytest.mark.root

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
RNX = [sys.executable, "-m", "rnx"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo up; setsid sleep 1000 & while :; do sleep 1; done"]


class System:
    """A local Joblet in a directory of its own, on a free port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = ports.pick(1, os.getpid(), ())[0]

    @property
    def where(self) -> Layout:
        return layout_of(self.directory)

    def local(self, verb: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*RNX, "local", verb, "--dir", str(self.directory), *arguments]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)

    def up(self) -> None:
        done = self.local("up", "--detach", "--port", str(self.port))
        assert done.returncode == 0, done.stderr

    def rnx(self, *arguments: str) -> str:
        command = [*RNX, "--config", str(self.where.client_config), *arguments]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=True).stdout

    def status(self) -> dict[str, int]:
        """Service -> pid of those that run."""
        answer = json.loads(self.local("status", "--json").stdout)
        return {row["service"]: row["pid"] for row in answer["services"] if row["pid"]}

    def identity(self, name: str) -> str:
        found = processes.read(self.where.pid_file(name))
        assert found is not None
        return found[0]

    def start_stubborn_job(self) -> str:
        """The id of a running job that has a second session and ignores SIGTERM."""
        job_id = json.loads(self.rnx("--json", "run", *STUBBORN))["uuid"]
        seen(lambda: self.rnx("log", "--no-follow", job_id) == "up\n")
        return str(job_id)

    def leftovers(self) -> list[str]:
        """What of this directory still runs or stands in the kernel."""
        found = [f"process {pid}" for pid in remains.processes_of(self.where)]
        found += [str(path) for path in remains.cgroups(self.where.cgroup_parent)]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.directory) in line]
        return found + [path.name for path in self.where.run.iterdir() if path.name != "lock"]


def seen(what: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not seen within {seconds} s"
        select.select((), (), (), 0.05)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path / "jbtest")
    yield system
    if system.where.run.exists():
        done = system.local("down")
        assert done.returncode == 0, done.stderr
        assert system.leftovers() == []


def test_up_twice_says_that_it_is_running(system: System) -> None:
    system.up()
    before = system.status()
    again = system.local("up", "--detach")
    assert again.returncode == 1
    supervisor = system.identity("supervisor").split()[0]
    assert again.stderr.startswith(f"Error: already running in {system.directory} (supervisor {supervisor})\n")
    assert system.status() == before


def test_down_stops_running_jobs_and_says_so(system: System) -> None:
    system.up()
    job_id = system.start_stubborn_job()
    done = system.local("down")
    assert done.returncode == 0, done.stderr
    assert f"Stopped 1 job: {job_id}" in done.stdout
    assert system.leftovers() == []
    again = system.local("down", "--json")
    assert (again.returncode, json.loads(again.stdout)["services"]) == (0, [])
    system.up()
    assert json.loads(system.rnx("--json", "status", job_id))["status"] == "STOPPED"


def test_a_killed_supervisor_is_succeeded(system: System) -> None:
    system.up()
    before = system.status()
    processes.send(system.identity("supervisor"), signal.SIGKILL)
    seen(lambda: json.loads(system.local("status", "--json").stdout)["supervisor"] is None)
    assert system.status() == before, "the services do not need it to go on"
    system.up()
    after = system.status()
    assert set(after) == set(SERVICES)
    assert not set(before.values()) & set(after.values())


def test_down_waits_for_a_gateway_that_was_just_killed(system: System) -> None:
    system.up()
    job_id = system.start_stubborn_job()
    processes.send(system.identity("gateway"), signal.SIGKILL)
    done = system.local("down")
    assert done.returncode == 0, done.stderr
    assert f"Stopped 1 job: {job_id}" in done.stdout


def test_down_after_everything_was_killed_ends_the_jobs(system: System) -> None:
    system.up()
    job_id = system.start_stubborn_job()
    for name in ("supervisor", *SERVICES):
        processes.send(system.identity(name), signal.SIGKILL)
    for name in ("supervisor", *SERVICES):
        assert processes.wait_gone(system.identity(name), 120)
    assert list(remains.cgroups(system.where.cgroup_parent)), "the job is running still"
    done = system.local("down")
    assert done.returncode == 0, done.stderr
    assert "Removed process" in done.stdout
    assert system.leftovers() == []
    system.up()
    seen(lambda: json.loads(system.rnx("--json", "status", job_id))["status"] == "FAILED")


def test_a_stale_pid_file_harms_nobody(system: System) -> None:
    with subprocess.Popen(["sleep", "1000"]) as innocent:
        try:
            system.where.run.mkdir(parents=True)
            for name in ("supervisor", *SERVICES):
                processes.write(system.where.pid_file(name), f"{innocent.pid} 1", "0")
            assert system.local("down").returncode == 0
            for name in ("supervisor", *SERVICES):
                processes.write(system.where.pid_file(name), f"{innocent.pid} 1", "0")
            system.up()
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_a_service_that_cannot_start_is_told_with_its_reason(system: System) -> None:
    system.where.config.parent.mkdir(parents=True)
    system.where.config.write_text("executor: {jobinit: /nonexistent/jobinit}\n")
    done = system.local("up", "--detach", "--port", str(system.port))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: executor does not start:\n")
    assert "/nonexistent/jobinit" in done.stderr
    assert system.status() == {}


def test_a_mistake_in_the_configuration_starts_nothing(system: System) -> None:
    system.where.config.parent.mkdir(parents=True)
    system.where.config.write_text("joblet: {maxJobs: 3}\n")
    done = system.local("up", "--detach", "--port", str(system.port))
    assert done.returncode == 2
    assert "joblet.maxJobs: unknown key" in done.stderr


def test_in_the_foreground_ctrl_c_takes_all_down(system: System) -> None:
    """In a terminal of its own, as a user has it: Ctrl+C reaches the whole foreground process group."""
    command = [*RNX, "local", "up", "--dir", str(system.directory), "--port", str(system.port)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, ENVIRONMENT)
    shown = b""
    try:
        asked = False
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # EIO: the last process of the terminal has ended
                break
            shown += part
            if not part:
                break
            if b"Look after it with" in shown and not asked:
                asked = True
                system.start_stubborn_job()
                os.write(terminal, b"\x03")
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    text = shown.decode()
    assert os.waitstatus_to_exitcode(status) == 0, text
    assert f"Joblet is running at 127.0.0.1:{system.port}" in text
    assert "gateway  | [" in text
    assert "Stopped job" in text
    assert "Nothing is running in" in text
    assert "Traceback" not in text
    assert system.leftovers() == []


def test_in_the_foreground_killed_services_come_back(system: System) -> None:
    command = [*RNX, "local", "up", "--dir", str(system.directory), "--port", str(system.port)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "Look after it" in line:
                    break
            before = system.status()
            processes.send(system.identity("runtime"), signal.SIGKILL)
            for line in process.stdout:
                if "starting it again" in line:
                    assert "runtime was killed by signal 9" in line
                    break
            seen(lambda: system.status().get("runtime", before["runtime"]) != before["runtime"])
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)
    assert process.returncode == 0
