"""For tests: a real logstore process with real certificates, its clients, and a stand-in for a job's init."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.request import urlopen

import grpc
import yaml

from joblet.api.internal.logstore_pb2_grpc import LogStoreServiceStub
from joblet.common import config, unixsock
from joblet.common.config import TlsFiles
from joblet.common.pki import Bundle, write_bundle
from joblet.common.rpc import connect
from joblet.logstore.layout import LogFiles

if TYPE_CHECKING:
    from joblet.api.internal.logstore_pb2_grpc import LogStoreServiceAsyncStub

NODE = "node-1"
WRITER = Path(__file__).parent / "testdata" / "writer.py"
TIMEOUT_SECONDS = 240.0  # only ends a wait for what never comes
POLL_SECONDS = 0.01


class LogStoreProcess:
    """`python -m joblet.logstore` in `directory`. It can be killed and started again, then on the same port."""

    def __init__(self, directory: Path, settings: Mapping[str, object]) -> None:
        self.directory = directory
        self.bundle: Bundle = write_bundle(directory / "certs", node_id=NODE)
        self.settings = settings
        self.port = 0
        self.metrics_port = 0
        self.running = False
        self.log: list[str] = []

    def start(self) -> None:
        """Returns when it listens."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "joblet.logstore", "--config", str(self.write_config())],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "listening" in line:
                break
        else:
            raise AssertionError(f"the logstore did not start: {''.join(self.log)}")
        fields = dict(field.split("=", 1) for field in line.split(" | ")[1].split())
        self.port = int(fields["address"].rpartition(":")[2])
        self.metrics_port = int(fields["metricsPort"])
        self._reader = Thread(target=self.log.extend, args=(self.process.stderr,))
        self._reader.start()
        self.running = True

    def write_config(self) -> Path:
        path = self.directory / "joblet-config.yml"
        bundle = self.bundle
        own = {
            "listen": f"127.0.0.1:{self.port}",
            "metricsListen": f"127.0.0.1:{self.metrics_port}",
            "directory": "logs",
            "socket": "control.sock",
            "tls": {"ca": str(bundle.ca_cert), "cert": str(bundle.cert("node")), "key": str(bundle.key("node"))},
        }
        path.write_text(yaml.safe_dump({"logstore": own | dict(self.settings)}))
        return path

    def end(self, number: signal.Signals) -> int:
        """Sends the signal, waits, and returns the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """The exit code, for one that ends without being told to (once more)."""
        self.running = False
        code = self.process.wait(TIMEOUT_SECONDS)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    @asynccontextmanager
    async def client(
        self, certificate: str = "gateway"
    ) -> "AsyncIterator[tuple[grpc.aio.Channel, LogStoreServiceAsyncStub]]":
        tls = TlsFiles(self.bundle.ca_cert, self.bundle.cert(certificate), self.bundle.key(certificate))
        grpc_config = config.load(self.write_config()).grpc
        async with connect(f"127.0.0.1:{self.port}", tls, grpc_config, target_name=NODE) as channel:
            yield channel, LogStoreServiceStub(channel)

    def ask(self, operation: str, job_id: str) -> tuple[dict[str, object], tuple[int, ...]]:
        return self.request({"op": operation, "job_id": job_id})

    def request(self, fields: Mapping[str, object]) -> tuple[dict[str, object], tuple[int, ...]]:
        """One request on the control socket, over a connection of its own."""
        with unixsock.connect(self.directory / "control.sock", timeout_seconds=TIMEOUT_SECONDS) as control:
            unixsock.send(control, json.dumps(fields).encode())
            received = unixsock.receive(control)
        return json.loads(received.data), received.fds

    @contextmanager
    def log_files(self, job_id: str) -> Iterator[LogFiles]:
        """Asks for the log as the executor does."""
        answer, fds = self.ask("open", job_id)
        assert answer == {"ok": True}
        output, index = fds
        with closing(LogFiles(output, index)) as files:
            yield files

    def says(self, *texts: str) -> None:
        """Waits for a line of its log with all of these."""
        eventually(lambda: any(all(text in line for text in texts) for line in self.log))

    def descriptors(self) -> list[str]:
        """Names of the log files that the process has open."""
        found = []
        for fd in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                target = str(fd.readlink())
            except FileNotFoundError:  # closed since it was listed
                continue
            if Path(target.removesuffix(" (deleted)")).name in ("output", "index"):
                found.append(target)
        return found

    def watches(self) -> int:
        """How many files it watches by inotify (proc_pid_fdinfo(5))."""
        found = 0
        for info in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            try:
                found += info.read_text().count("inotify wd:")
            except FileNotFoundError:  # closed since it was listed
                continue
        return found

    def http(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=TIMEOUT_SECONDS) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """The sum over its labels."""
        samples = [line.rsplit(" ", 1) for line in self.http("/metrics").splitlines() if not line.startswith("#")]
        return sum(float(value) for sample, value in samples if sample == name or sample.startswith(name + "{"))


@contextmanager
def logstore(directory: Path, **settings: object) -> Iterator[LogStoreProcess]:
    """A running one, with keys of its section; if the test has not ended it, it must end on SIGTERM with 0."""
    process = LogStoreProcess(directory, settings)
    process.start()
    try:
        yield process
    except BaseException:
        if process.running:
            process.end(signal.SIGKILL)
        raise
    if process.running:
        assert process.end(signal.SIGTERM) == 0


@contextmanager
def writer(files: LogFiles, source: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Writes what comes from `source`, or from its own stdin, as a job's init does."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-E", str(WRITER), str(files.output), str(files.index)],
        stdin=subprocess.PIPE if source is None else source,
        pass_fds=(files.output, files.index),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def eventually(condition: Callable[[], bool]) -> None:
    """Waits for what another process does in its own time."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(POLL_SECONDS)


def send_garbage(port: int, data: bytes) -> None:
    """Returns when the server has closed the connection, at whatever point it did."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
