"""A gateway for tests: a real gRPC server with mutual TLS whose answers a test decides, and rnx run in this process."""

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.common import pki
from joblet.common.pki import Bundle
from rnx import main

import grpc  # isort: skip - joblet.common comes first, see there
from joblet.api import job_pb2 as api  # isort: skip
from joblet.api import job_pb2_grpc  # isort: skip

JOB_ID = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
STARTED, ENDED = "2024-01-15T10:30:00Z", "2024-01-15T10:45:00Z"


@dataclass(frozen=True, slots=True)
class Result:
    """What one rnx command did."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


Rnx = Callable[..., Result]

# What grpc's native library logs of both sides. rnx silences it before the import, so only in a process of its own.
_NATIVE_LOG = re.compile(r"^[DIWE]\d{4} \d\d:\d\d:\d\d\.\d+ .*\n", re.MULTILINE)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Certificates of one installation."""
    return pki.write_bundle(tmp_path_factory.mktemp("bundle") / "certs")


@pytest.fixture
def rnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Rnx:
    """Runs rnx in this process, in an empty directory that is also its home, without any JOBLET_ variable."""
    for name in [name for name in os.environ if name.startswith("JOBLET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Result:
        capfdbinary.readouterr()
        code = main.run([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return Result(code, out, _NATIVE_LOG.sub("", err.decode()))

    return run


def a_job(**changes: Any) -> api.GetJobStatusRes:
    """The job of the specification's transcripts."""
    values: dict[str, Any] = {
        "uuid": JOB_ID,
        "command": "python3",
        "args": ["script.py"],
        "maxCPU": 50,
        "maxMemory": 512,
        "status": "RUNNING",
        "startTime": STARTED,
        "network": "host",
    }
    return api.GetJobStatusRes(**{**values, **changes})


@dataclass
class Gateway(job_pb2_grpc.JobServiceServicer):
    """Answers as `job`, `jobs`, `output` say and notes every request; the first calls are refused as
    `failures` say, None for one that is not."""

    bundle: Bundle
    job: api.GetJobStatusRes = field(default_factory=a_job)
    pages: list[api.Jobs] = field(default_factory=lambda: [api.Jobs()])
    output: bytes = b""
    cut_output_at: list[int] = field(default_factory=list)  # the stream breaks at these positions, each once
    kept: list[api.OutputChunk] = field(default_factory=list)  # whole files, directories and links
    begin: int = 0  # where the output begins that was asked for by lines or times
    times: bool = False  # chunks of 3 bytes, each with a time of its own: 7 s, 8 s, ...
    hold_output: threading.Event | None = None  # the stream ends only when it is set
    ended: threading.Event | None = None  # `job` is the answer of WaitJob once it is set
    failures: list[tuple[grpc.StatusCode, str] | None] = field(default_factory=list)
    trailing: tuple[tuple[str, str], ...] = ()
    requests: list[Any] = field(default_factory=list)
    on_request: Callable[[Any], object] = lambda _: None
    port: int = 0

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    @property
    def flags(self) -> tuple[str, ...]:
        return self.flags_for(self.bundle.cert("admin-client"), self.bundle.key("admin-client"))

    def flags_for(self, cert: Path, key: Path, ca: Path | None = None) -> tuple[str, ...]:
        files = {"--cert": cert, "--key": key, "--ca": ca or self.bundle.ca_cert}
        return (f"--server={self.address}", *(f"{flag}={path}" for flag, path in files.items()))

    def RunJob(self, request: api.RunJobReq, context: Any) -> api.RunJobRes:
        self._seen(request, context)
        return api.RunJobRes(job=self.job)

    def GetJobStatus(self, request: api.GetJobStatusReq, context: Any) -> api.GetJobStatusRes:
        self._seen(request, context)
        return self.job

    def WaitJob(self, request: api.WaitJobReq, context: Any) -> api.WaitJobRes:
        self._seen(request, context)
        if self.ended is not None:
            self.ended.wait(request.timeoutSeconds)
        return api.WaitJobRes(job=self.job if self.ended is None or self.ended.is_set() else a_job())

    def CancelJob(self, request: api.CancelJobReq, context: Any) -> api.CancelJobRes:
        self._seen(request, context)
        return api.CancelJobRes(job=self.job)

    def StopJob(self, request: api.StopJobReq, context: Any) -> api.StopJobRes:
        self._seen(request, context)
        return api.StopJobRes(job=self.job)

    def DeleteJob(self, request: api.DeleteJobReq, context: Any) -> api.DeleteJobRes:
        self._seen(request, context)
        return api.DeleteJobRes(uuid=request.uuid)

    def DeleteAllJobs(self, request: api.DeleteAllJobsReq, context: Any) -> api.DeleteAllJobsRes:
        self._seen(request, context)
        return api.DeleteAllJobsRes(deleted=2, skipped=1)

    def ListJobs(self, request: api.EmptyRequest, context: Any) -> api.Jobs:
        self._seen(request, context)
        return self.pages[int(request.pageToken or 0)]

    def GetJobLogs(self, request: api.GetJobLogsReq, context: Any) -> Iterator[api.DataChunk]:
        self._seen(request, context)
        position = request.offset
        if request.HasField("tailLines") or request.HasField("since"):
            position = self.begin
            yield api.DataChunk(offset=position)
        size = 3 if self.times else 1000
        while position < len(self.output):
            if self.cut_output_at and position >= self.cut_output_at[0]:
                self.cut_output_at.pop(0)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway goes away")
            payload = self.output[position : position + size]
            yield api.DataChunk(payload=payload, offset=position, times=self._times(position))
            position += len(payload)
        if self.hold_output is not None:
            self.hold_output.wait(120)

    def GetJobOutput(self, request: api.GetJobOutputReq, context: Any) -> Iterator[api.OutputChunk]:
        self._seen(request, context)
        yield from self.kept

    def ListJobOutputs(self, request: api.ListJobOutputsReq, context: Any) -> api.ListJobOutputsRes:
        self._seen(request, context)
        return api.ListJobOutputsRes(files=[api.FileUpload(path=one.path, size=one.size) for one in self.kept])

    def _times(self, position: int) -> list[api.OutputTime]:
        if not self.times:
            return []
        return [api.OutputTime(time=Timestamp(seconds=7 + (position - self.begin) // 3))]

    def _seen(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.on_request(request)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            context.set_trailing_metadata(self.trailing)
            context.abort(*failure)


def a_gateway(bundle: Bundle) -> Gateway:
    return Gateway(bundle)  # type: ignore[abstract]  # the other RPCs answer UNIMPLEMENTED, as generated


def serve(gateway: Gateway, cert: Path, key: Path) -> "grpc.Server":
    """A started server that wants certificates of the bundle's CA; its port goes into `gateway`."""
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    job_pb2_grpc.add_JobServiceServicer_to_server(gateway, server)
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), cert.read_bytes())], gateway.bundle.ca_cert.read_bytes(), require_client_auth=True
    )
    gateway.port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server


@pytest.fixture
def gateway(bundle: Bundle) -> Iterator[Gateway]:
    double = a_gateway(bundle)
    server = serve(double, bundle.cert("gateway"), bundle.key("gateway"))
    yield double
    server.stop(None).wait()
