"""A running single-machine Joblet for tests: started, asked and stopped with rnx, as a user would.

Owns nothing of the product: everything here goes through the rnx executable, the public port, or (for crash tests)
signals to process ids that `rnx local status` names.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
RNX = REPOSITORY / ".venv/bin/rnx"
T = TypeVar("T")
# Both only end a wait for what never comes; on a busy machine everything may take ten times as long as on an idle one.
WAIT_SECONDS = 120.0
CALL_SECONDS = 120.0
# Below those that rnx chooses for services and the kernel for connections, also while who is to listen is restarted.
PORTS = (10_000, 20_000)
SERVICES = ("gateway", "executor", "logstore", "runtime")
# Nothing of the caller's JOBLET_* or HOME reaches rnx, so that a developer's own configuration cannot change a result.
CLEAN_ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": "/nonexistent"}


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago, and that nobody takes who did not choose it."""
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port


def wait_for(what: str, probe: Callable[[], T | None], timeout_seconds: float = WAIT_SECONDS) -> T:
    """Ask `probe` until it answers something true; AssertionError naming `what` when time is up."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        answer = probe()
        if answer:
            return answer
        time.sleep(0.02)  # between two looks; nothing depends on its length
    raise AssertionError(f"{what}: not seen within {timeout_seconds} s")


def files_below(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below a directory that is in use, with its content: what goes away meanwhile is passed over."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):
                if path.is_file():
                    yield path, path.read_bytes()


def run_rnx(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float = CALL_SECONDS,
) -> subprocess.CompletedProcess[bytes]:
    """Run rnx to its end in a clean environment; the caller looks at the exit code."""
    return subprocess.run(
        [RNX, *arguments],
        env={**CLEAN_ENVIRONMENT, **(environment or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_seconds,
        check=False,
    )


def not_connected(said: str) -> bool:
    """Whether rnx, or the gateway that it asked, has not reached whom it needs: it may just be starting."""
    reasons = ("cannot reach ", "no node is registered", "not available", "has not said how yet")
    return any(reason in said for reason in reasons)


UP_SECONDS = 240  # in a guest on a busy machine; it takes two on an idle one


@dataclass(frozen=True, slots=True)
class LocalSystem:
    """One `rnx local up`: its directory and public port."""

    directory: Path
    port: int

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    @property
    def certificates(self) -> Path:
        return self.directory / "certs"

    def rnx(self, *arguments: str | Path, timeout_seconds: float = CALL_SECONDS) -> subprocess.CompletedProcess[bytes]:
        """rnx as admin with the configuration that `local up` wrote."""
        return run_rnx("--config", self.directory / "rnx-config.yml", *arguments, timeout_seconds=timeout_seconds)

    def output(self, *arguments: str | Path, timeout_seconds: float = CALL_SECONDS) -> str:
        """The standard output of an rnx call that must succeed."""
        done = self.rnx(*arguments, timeout_seconds=timeout_seconds)
        assert done.returncode == 0, f"rnx {arguments}: {done.returncode} {done.stderr.decode()}{done.stdout.decode()}"
        return done.stdout.decode()

    def json(self, *arguments: str | Path) -> dict[str, object]:
        answer: dict[str, object] = json.loads(self.output("--json", *arguments))
        return answer

    def run(self, *arguments: str | Path) -> str:
        """Submit a job; its id."""
        for line in self.output("job", "run", *arguments).splitlines():
            if line.startswith("ID: "):
                return line.removeprefix("ID: ")
        raise AssertionError("rnx job run printed no ID line")

    def status(self, job_id: str) -> dict[str, str]:
        """The lines of `rnx job status` by their heading."""
        lines = self.output("job", "status", job_id).splitlines()
        return {head: rest.strip() for head, _, rest in (line.partition(":") for line in lines)}

    def stop(self, job_id: str) -> None:
        """Stop a job, also just after a restart: a node that is not connected again is waited for only so long."""

        def asked() -> bool:
            done = self.rnx("job", "stop", job_id)
            said = done.stderr.decode()
            assert done.returncode == 0 or "(current status: STOPPED)" in said or not_connected(said), said
            return not not_connected(said)

        wait_for("the end by a stop", asked)

    def log(self, job_id: str, timeout_seconds: float = CALL_SECONDS) -> bytes:
        """The whole output of a job, followed to its end."""
        done = self.rnx("job", "log", job_id, timeout_seconds=timeout_seconds)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def pids(self) -> dict[str, int]:
        """Process id of each running service, as `rnx local status` tells."""
        answer = json.loads(run_rnx("--json", "local", "status", "--dir", self.directory).stdout)
        return {str(row["service"]): int(row["pid"]) for row in answer["services"] if row.get("pid")}

    def serving(self) -> dict[str, int]:
        """Process id of each service that answers as healthy."""
        answer = json.loads(run_rnx("--json", "local", "status", "--dir", self.directory).stdout)
        return {str(row["service"]): int(row["pid"]) for row in answer["services"] if row.get("health") == "SERVING"}

    def kill(self, service: str) -> None:
        """kill -9 one service and wait until its successor is up and serving."""
        before = wait_for(f"{service} runs", lambda: self.pids().get(service))
        os.kill(before, signal.SIGKILL)

        def restarted() -> bool:
            answer = json.loads(run_rnx("--json", "local", "status", "--dir", self.directory).stdout)
            rows = {row["service"]: row for row in answer["services"]}
            row = rows[service]
            return bool(row.get("pid")) and row["pid"] != before and row.get("health") == "SERVING"

        wait_for(f"{service} back after kill -9", restarted)


def give_a_lease(directory: Path, seconds: int) -> None:
    """To the node of a system that is to be made in `directory`."""
    config = directory / "config/joblet-config.yml"
    config.parent.mkdir(parents=True)
    config.write_text(f"gateway: {{nodeLeaseSeconds: {seconds}}}\n")


def give_a_long_lease(directory: Path) -> None:
    """For tests that kill the executor, which on a busy machine may be away for longer than the 15 s after which a node
    is lost with its jobs."""
    give_a_lease(directory, 600)


@contextmanager
def local_system(directory: Path) -> Iterator[LocalSystem]:
    """A system in `directory`, taken down again whatever happens."""
    system = LocalSystem(directory, free_port())
    try:
        up = run_rnx(
            "local", "up", "--dir", directory, "--port", str(system.port), "--detach", timeout_seconds=UP_SECONDS
        )
        assert up.returncode == 0, up.stderr.decode() + up.stdout.decode()
        yield system
    finally:
        down = run_rnx("local", "down", "--dir", directory)
        assert down.returncode == 0, down.stderr.decode() + down.stdout.decode()
