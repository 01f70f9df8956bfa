"""The supervisor with services of /bin/sh, and an rnx that only notes how it was called."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rnx.local import processes, supervisor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rnx local runs on Linux only")

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
STEADY = "trap 'echo $1 ends; exit 0' TERM; echo $1 begins; while :; do sleep 0.05; done"
PROGRAM = """
import sys
from rnx.local import supervisor
supervisor.STOP_SECONDS = {stop_seconds}
sys.exit(supervisor.main())
"""
FAKE_RNX = '#!/bin/sh\necho "$@" >> {calls}\nif [ "$2" = await-ready ]; then exit {await_ready}; fi\n'


class Supervised:
    """A supervisor in `directory`; `name` says which service, `calls` what it asked rnx for."""

    def __init__(
        self, directory: Path, mode: str, services: dict[str, str], await_ready: int, stop_seconds: float
    ) -> None:
        self.directory = directory
        for name in ("run", "logs"):
            (directory / name).mkdir()
        self.calls_file = directory / "calls"
        self.calls_file.touch()
        rnx = directory / "rnx"
        rnx.write_text(FAKE_RNX.format(calls=self.calls_file, await_ready=await_ready))
        rnx.chmod(0o755)
        lock = os.open(directory / "run/lock", os.O_RDWR | os.O_CREAT)
        words = [sys.executable, "-m", "rnx.local.supervisor_main", mode, str(lock), str(directory), str(rnx)]
        words[1:3] = ["-c", PROGRAM.format(stop_seconds=stop_seconds)]
        for name, script in services.items():
            words += ["--", name, "/bin/sh", "-c", script, "sh", name]
        self.process = subprocess.Popen(words, env=ENVIRONMENT, pass_fds=(lock,), stdout=subprocess.PIPE)
        os.close(lock)

    def pid(self, name: str) -> str | None:
        found = processes.read(str(self.directory / f"run/{name}.pid"))
        return found[0] if found and processes.is_alive(found[0]) else None

    def runs(self, name: str) -> bool:
        """Whether its pid file is written and it has set its trap; the order of the two is open."""
        return self.pid(name) is not None and "begins" in self.log(name)

    def log(self, name: str) -> str:
        path = self.directory / f"logs/{name}.log"
        return path.read_text() if path.exists() else ""

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()

    def end(self, number: int) -> tuple[int, str]:
        """Exit code and what it printed."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=120)
        return self.process.returncode, out.decode()


Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Supervised] = []

    def begin(
        *, mode: str = supervisor.DETACHED, await_ready: int = 0, stop_seconds: float = 60, **services: str
    ) -> Supervised:
        started.append(Supervised(tmp_path, mode, services, await_ready, stop_seconds))
        return started[-1]

    yield begin
    for supervised in started:
        supervised.process.kill()
        supervised.process.communicate()
        for file in (tmp_path / "run").glob("*.pid"):
            found = processes.read(str(file))
            if found:
                processes.end(found[0], 1)


def seen(what: Callable[[], object]) -> None:
    """Waits until `what` is true."""
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline, "not seen within 120 s"
        select.select((), (), (), 0.01)


def test_services_run_and_end_with_it(start: Start) -> None:
    system = start(gateway=STEADY, executor=STEADY)
    seen(lambda: system.runs("gateway") and system.runs("executor"))
    gateway, executor = system.pid("gateway"), system.pid("executor")
    assert gateway
    assert executor
    assert os.getsid(int(gateway.split()[0])) == int(gateway.split()[0]), "Ctrl+C in the terminal must not reach it"
    code, out = system.end(signal.SIGUSR1)
    assert code == 0
    assert "stopping the services" in out
    assert not processes.is_alive(gateway)
    assert not processes.is_alive(executor)
    assert system.log("gateway") == "gateway begins\ngateway ends\n"
    assert system.calls() == []
    assert [path.name for path in (system.directory / "run").iterdir()] == ["lock"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_end_it_stops_the_jobs_before_and_looks_after(start: Start, number: int) -> None:
    system = start(gateway=STEADY)
    seen(lambda: system.runs("gateway"))
    assert system.end(number)[0] == 0
    assert system.calls() == [f"local {verb} --dir {system.directory}" for verb in ("stop-jobs", "down")]


def test_a_service_that_is_killed_comes_back_at_once(start: Start) -> None:
    system = start(gateway=STEADY, executor=STEADY)
    seen(lambda: system.runs("gateway") and system.runs("executor"))
    first, other = system.pid("gateway"), system.pid("executor")
    assert first
    processes.send(first, signal.SIGKILL)
    seen(lambda: system.pid("gateway") not in (None, first))
    assert processes.read(str(system.directory / "run/gateway.pid"))[1] == ["1"]  # type: ignore[index]
    assert system.pid("executor") == other
    assert "gateway was killed by signal 9; starting it again in 0.05 s" in system.end(signal.SIGUSR1)[1]


def test_a_service_that_cannot_stay_is_started_ever_more_rarely(start: Start) -> None:
    system = start(gateway="echo tried; exit 3", executor=STEADY)
    seen(lambda: system.log("gateway").count("tried") >= 3)
    _, out = system.end(signal.SIGUSR1)
    pauses = [line.rpartition("again in ")[2] for line in out.splitlines() if "exit code 3" in line]
    assert pauses[:2] == ["0.05 s", "0.2 s"]


def test_a_service_that_is_not_there(start: Start, tmp_path: Path) -> None:
    system = start(gateway=STEADY)
    seen(lambda: system.runs("gateway"))
    service = supervisor.Service("x", [str(tmp_path / "absent")], str(tmp_path))
    before = time.monotonic()
    service.start()
    assert service.pid == 0
    assert service.due >= before


def test_a_service_that_ignores_sigterm_is_killed(start: Start) -> None:
    system = start(stop_seconds=0.5, gateway="trap '' TERM; echo begins; while :; do sleep 0.05; done")
    seen(lambda: system.runs("gateway"))
    gateway = system.pid("gateway")
    assert gateway
    code, out = system.end(signal.SIGUSR1)
    assert code == 0
    assert "gateway did not end within 0.5 s; killed" in out
    assert not processes.is_alive(gateway)


def test_in_the_foreground_it_prints_whole_lines_with_names(start: Start) -> None:
    system = start(
        mode=supervisor.FOREGROUND, gateway=STEADY, executor="printf 'half a '; sleep 0.5; echo line; " + STEADY
    )
    seen(lambda: system.runs("gateway") and system.runs("executor") and system.calls())
    code, out = system.end(signal.SIGINT)
    assert code == 0
    assert system.calls()[0] == f"local await-ready --dir {system.directory}"
    for line in ("gateway  | gateway begins", "gateway  | gateway ends", "executor | half a line"):
        assert line in out.splitlines()


def test_in_the_foreground_it_gives_up_when_the_system_does_not_become_ready(start: Start) -> None:
    system = start(mode=supervisor.FOREGROUND, await_ready=1, gateway=STEADY)
    system.process.wait(timeout=120)
    assert system.process.returncode == 1
    assert system.calls()[-1] == f"local down --dir {system.directory}"


def test_a_full_log_is_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(supervisor, "LOG_BYTES", 1000)
    service = supervisor.Service("x", [], str(tmp_path))
    log = tmp_path / "logs/x.log"
    log.write_bytes(b"x" * 999)
    service.cut_log()
    assert log.stat().st_size == 999
    log.write_bytes(b"y" * 1000)
    service.cut_log()
    assert (log.read_bytes(), (tmp_path / "logs/x.log.1").read_bytes()) == (b"", b"y" * 1000)
