"""How much memory the four services hold: idle, per running job, and after many jobs. PSS, from smaps_rollup.

Run as root: `python bench/footprint.py [--running N] [--jobs N]`. Prints Markdown. PSS (proc(5)) counts a page shared
by n processes as 1/n of it, so the figures of several processes add up. Aims: 250 MB idle, 0.5 MB per running job (its
and what the services keep for it; the job's own memory is its own).
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launch import channel, run_to_end
from local_system import SERVICES, LocalSystem, local_system, wait_for
from measure import machine

from joblet.api import job_pb2, job_pb2_grpc

MEGABYTE = 1 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--running", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2000)
    options = parser.parse_args()
    print(f"## bench/footprint\n\n{machine()}\n\n| when | " + " | ".join(SERVICES) + " | inits | all MB |")
    print("|---|" + "---:|" * (len(SERVICES) + 2))
    with tempfile.TemporaryDirectory(prefix="joblet-bench-") as name, local_system(Path(name) / "joblet") as system:
        stub = job_pb2_grpc.JobServiceStub(channel(system))
        run_to_end(stub, "none")
        idle = row("idle", system)
        started = [sleeper(stub) for _ in range(options.running)]
        wait_for("all running", lambda: all(state(stub, job) == "RUNNING" for job in started))
        busy = row(f"{options.running} jobs running", system)
        for job in started:
            stub.StopJob(job_pb2.StopJobReq(uuid=job), timeout=60)
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(lambda _: run_to_end(stub, "none"), range(options.jobs)))
        after = row(f"after {options.jobs} jobs", system)
    print(f"\nper running job: {(busy - idle) / options.running / MEGABYTE:.2f} MB; "
          f"after {options.jobs} jobs: {after / idle:.2f} x idle")  # fmt: skip


def sleeper(stub: job_pb2_grpc.JobServiceStub) -> str:
    """The id of a job that runs until it is stopped."""
    # Small enough that the node has room for all of them at once.
    request = job_pb2.RunJobReq(command="sleep", args=["1000"], network="none", maxCPU=10, maxMemory=64)
    return stub.RunJob(request, timeout=60).job.uuid


def state(stub: job_pb2_grpc.JobServiceStub, job_id: str) -> str:
    """A job's present state."""
    return stub.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job_id), timeout=60).status


def row(when: str, system: LocalSystem) -> int:
    """Print one line of the table; the sum in bytes."""
    pids = system.pids()
    services = [pss(pids[name]) for name in SERVICES]
    inits = sum(pss(pid) for pid in inits_below(pids["executor"]))
    total = sum(services) + inits
    figures = [f"{value / MEGABYTE:.1f}" for value in (*services, inits, total)]
    print(f"| {when} | " + " | ".join(figures) + " |", flush=True)
    return total


def inits_below(executor: int) -> list[int]:
    """The jobs' PID 1 processes, and the nursery that they come from: the executor's descendants that are jobinit."""
    below = [int(pid) for pid in Path(f"/proc/{executor}/task/{executor}/children").read_text().split()]
    found = [pid for pid in below if Path(f"/proc/{pid}/comm").read_text().strip() == "jobinit"]
    return [*found, *(pid for nursery in found for pid in inits_below(nursery))]


def pss(pid: int) -> int:
    """Proportional set size of a process in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no Pss line for process {pid}")


if __name__ == "__main__":
    main()
