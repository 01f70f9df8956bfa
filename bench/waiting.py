"""What a long queue costs: each call with few and with many jobs waiting, and the gateway's memory per waiting job.

Run as root: `make bench-waiting` or `python bench/waiting.py [--jobs N]`. Prints Markdown. The peer is the same system
with an almost empty queue.

 * RunJob: a job that has to wait
 * GetJobStatus: of the last in line, its place included
 * next start: from StopJob of the only running job until the next in line is RUNNING
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from local_system import LocalSystem, local_system
from measure import machine

from joblet.api import job_pb2, job_pb2_grpc

CALL_SECONDS = 60.0
ROUNDS = 50
STARTS = 10
CLIENTS = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="joblet-bench-") as name:
        directory = Path(name) / "joblet"
        config = directory / "config/joblet-config.yml"
        config.parent.mkdir(parents=True)
        config.write_text("joblet: {maxConcurrentJobs: 1}\n")
        with local_system(directory) as system:
            report(system, options.jobs)


def report(system: LocalSystem, jobs: int) -> None:
    """Print the table."""
    stub = job_pb2_grpc.JobServiceStub(channel(system))
    line = deque([submit(stub)])
    few = measure(stub, line)
    before = memory_kib(system)
    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda _: submit(stub), range(jobs)))
    seconds = time.monotonic() - begun
    grown = memory_kib(system) - before
    many = measure(stub, line)
    print(f"## bench/waiting\n\n{machine()}\n")
    print(f"| call | ms, few waiting | ms, {jobs} more | ratio |\n|---|---:|---:|---:|")
    for name, value in few.items():
        print(f"| {name} | {value:.2f} | {many[name]:.2f} | {many[name] / value:.2f} |")
    each = grown * 1024 / jobs
    print(f"\n{jobs / seconds:.0f} jobs submitted a second; the gateway has grown by {each:.0f} bytes a job")


def measure(stub: job_pb2_grpc.JobServiceStub, line: deque[str]) -> dict[str, float]:
    """Medians in milliseconds. `line` has the running job and those that wait, as far as they were submitted here."""

    def next_start() -> None:
        stub.StopJob(job_pb2.StopJobReq(uuid=line.popleft()), timeout=CALL_SECONDS)
        while status(stub, line[0]) != "RUNNING":
            pass

    run_job = median(lambda: line.append(submit(stub)), ROUNDS)
    last = line[-1]
    return {
        "RunJob": run_job,
        "GetJobStatus": median(lambda: status(stub, last), ROUNDS),
        "next start": median(next_start, STARTS),
    }


def status(stub: job_pb2_grpc.JobServiceStub, job_id: str) -> str:
    return str(stub.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job_id), timeout=CALL_SECONDS).status)


def median(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times)


def submit(stub: job_pb2_grpc.JobServiceStub) -> str:
    """The id of a job that runs until it is stopped."""
    request = job_pb2.RunJobReq(command="sleep", args=["1000"], network="none", maxMemory=64)
    return str(stub.RunJob(request, timeout=CALL_SECONDS).job.uuid)


def channel(system: LocalSystem) -> grpc.Channel:
    """A mutually authenticated channel to the system's gateway, as admin."""
    files = [(system.certificates / name).read_bytes() for name in ("ca-cert.pem", "client-key.pem", "client-cert.pem")]
    return grpc.secure_channel(system.address, grpc.ssl_channel_credentials(*files))


def memory_kib(system: LocalSystem) -> int:
    """Of the gateway, without what it shares with others."""
    lines = Path(f"/proc/{system.pids()['gateway']}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


if __name__ == "__main__":
    main()
