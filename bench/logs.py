"""How fast output is written and read, beside `cat > file` and a bare TLS connection.

Run as root: `python bench/logs.py [--mib N] [--rounds N] [--lines N] [--seconds S]`. Prints Markdown.

 * written: a job's dd fills its output, until the job has ended; the peer is the same dd into `cat > file`
 * lines: as many write(2)s of 80 bytes, in the same two ways
 * read: a quarter as much, the output of an ended job, through the gateway, by one client and by eight at once; the
   peers are the same bytes over one TLS connection of Python's ssl and over one bare gRPC stream with mutual TLS. Eight
   are measured once more beside a ninth that stands still; then the CPU time that every process needs for it
 * quiet job: from the stamp in a line every 10 ms to its arrival at a follower, alone and beside four jobs that flood
 * memory: what logstore and gateway hold more than before all this
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import grpcpair
import tlspair
from footprint import pss
from local_system import LocalSystem, local_system
from measure import Series, interleaved, machine, table
from vitals import channel

from joblet.api import job_pb2, job_pb2_grpc

MIB = 1 << 20
GET_LOGS = "/joblet.JobService/GetJobLogs"
LINES = "import os, sys; line = b'x' * 79 + b'\\n'\nfor _ in range(int(sys.argv[1])): os.write(1, line)"
STAMPS = "import time\nwhile True: print(time.time_ns(), flush=True); time.sleep(0.01)"
FLOODS = 4
# Channels of equal target and options would share one connection.
# The rest as rnx has them.
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * MIB),
    ("grpc.http2.max_frame_size", MIB),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    print(f"## bench/logs\n\n{machine()}\n")
    with tempfile.TemporaryDirectory(prefix="joblet-bench-") as name, local_system(Path(name) / "joblet") as system:
        bench = Bench(system, Path(name))
        finish(bench.stub, start(bench.stub, "true"))
        before = bench.memory()
        flood = ["dd", "if=/dev/zero", "bs=64k", f"count={options.mib * 16}", "status=none"]
        print(table(f"{options.mib} MiB written", bench.writing(flood, options.rounds), "cat"), "\n", flush=True)
        lines = ["python3", "-c", LINES, str(options.lines)]
        print(table(f"{options.lines} lines", bench.writing(lines, options.rounds), "cat"), "\n", flush=True)
        quarter = [*flood[:3], f"count={options.mib * 4}", "status=none"]
        series = bench.reading(quarter, options.rounds)
        print(table(f"{options.mib // 4} MiB read", series, "TLS pair"), "\n", flush=True)
        print("### CPU seconds for a GiB read\n\n| process | s |\n|---|---:|")
        for process, seconds in bench.reading_costs(quarter).items():
            print(f"| {process} | {seconds:.2f} |")
        print(flush=True)
        print(table("a line of a quiet job", bench.latencies(options.seconds), "alone"), "\n", flush=True)
        print("### memory\n\n| service | before MB | more afterwards MB |\n|---|---:|---:|")
        for service, now in bench.memory().items():
            print(f"| {service} | {before[service] / MIB:.1f} | {(now - before[service]) / MIB:.1f} |")


class Bench:
    """A running system, and a directory for what its peers write."""

    def __init__(self, system: LocalSystem, directory: Path) -> None:
        self.system = system
        self.stub = job_pb2_grpc.JobServiceStub(channel(system))
        self._file = directory / "peer"
        pids = system.pids()
        self._pids = {name: pids[name] for name in ("logstore", "gateway")}

    def memory(self) -> dict[str, int]:
        """Proportional set size, in bytes, of the services that output goes through."""
        return {name: pss(pid) for name, pid in self._pids.items()}

    def writing(self, command: list[str], rounds: int) -> list[Series]:
        """The command as a job, and with its output piped into a file."""

        def cat() -> None:
            with self._file.open("wb") as file, subprocess.Popen(command, stdout=subprocess.PIPE) as source:
                subprocess.run(["cat"], stdin=source.stdout, stdout=file, check=True)

        def job() -> None:
            finish(self.stub, start(self.stub, *command))

        def settle() -> None:
            self._file.unlink(missing_ok=True)
            os.sync()

        return interleaved({"job": job, "cat": cat}, rounds, prepare=settle)

    def reading(self, command: list[str], rounds: int) -> list[Series]:
        """The command's output by followers and by a bare TLS connection; always a new job's: old logs are sealed."""
        job_id, size = self._print(command)

        def again() -> None:
            nonlocal job_id
            job_id, _ = self._print(command)

        def followers(count: int) -> None:
            at_once([lambda: self._read(job_id, size)] * count)

        def beside() -> None:
            with self._standing_still(job_id):
                followers(8)

        certificates = self.system.certificates
        with tlspair.sender(self._file, certificates) as tls, grpcpair.sender(self._file, certificates) as bare:
            work: dict[str, Callable[[], None]] = {
                "TLS pair": lambda: expect(tls.receive(), size),
                "gRPC pair": lambda: expect(bare.receive(), size),
                "one follower": lambda: followers(1),
                "8 followers": lambda: followers(8),
                "8 beside one that stands still": beside,
            }
            return interleaved(work, rounds, prepare=again)

    def reading_costs(self, command: list[str]) -> dict[str, float]:
        """CPU seconds per GiB of every process that the output of a job goes through, on both ways."""
        job_id, size = self._print(command)
        us = os.getpid()
        spent: dict[str, float] = {}
        for name, pair in (("TLS pair", tlspair.sender), ("gRPC pair", grpcpair.sender)):
            with pair(self._file, self.system.certificates) as sender:
                sender.receive()  # so that the start of its process is not counted
                spent |= costs({f"{name}, sender": sender.pid, f"{name}, receiver": us}, sender.receive)
        spent |= costs({**self._pids, "follower": us}, lambda: self._read(job_id, size))
        return {name: seconds * 1024 * MIB / size for name, seconds in spent.items()}

    def _print(self, command: list[str]) -> tuple[str, int]:
        """A job that has just printed the command's output, which is linked to as `_file`; and how much that is."""
        job_id = start(self.stub, *command)
        finish(self.stub, job_id)
        output = self.system.directory / f"state/logstore/{job_id}/output"
        self._file.unlink(missing_ok=True)
        self._file.hardlink_to(output)
        return job_id, output.stat().st_size

    def latencies(self, seconds: float) -> list[Series]:
        """How late the lines of a quiet job come, alone and beside floods."""
        alone = Series("alone", self._latency(seconds))
        floods = [start(self.stub, "dd", "if=/dev/zero", "bs=64k", "status=none") for _ in range(FLOODS)]
        try:
            beside = Series(f"beside {FLOODS} floods", self._latency(seconds))
        finally:
            for job_id in floods:
                self.stub.StopJob(job_pb2.StopJobReq(uuid=job_id), timeout=60)
        return [alone, beside]

    def _latency(self, seconds: float) -> tuple[float, ...]:
        job_id = start(self.stub, "python3", "-c", STAMPS)
        call = self.stub.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id))
        taken: list[float] = []
        until = time.monotonic() + seconds
        for chunk in call:
            now = time.time_ns()
            taken += [(now - int(stamp)) / 1e9 for stamp in chunk.payload.split()]
            if time.monotonic() > until:
                break
        call.cancel()
        self.stub.StopJob(job_pb2.StopJobReq(uuid=job_id), timeout=60)
        return tuple(taken[10:])  # without those that were there before the stream was

    def _read(self, job_id: str, size: int) -> None:
        """The whole output over a connection of its own, messages undecoded."""
        request = job_pb2.GetJobLogsReq(uuid=job_id).SerializeToString()
        with channel(self.system, *OPTIONS) as own:
            stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = own.unary_stream(GET_LOGS)
            last = b""
            for message in stream(request):
                last = message
        chunk = job_pb2.DataChunk.FromString(last)
        expect(chunk.offset + len(chunk.payload), size)

    @contextlib.contextmanager
    def _standing_still(self, job_id: str) -> Iterator[None]:
        """A reader that takes one message and no more."""
        with channel(self.system, *OPTIONS) as own:
            call = job_pb2_grpc.JobServiceStub(own).GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id))
            next(iter(call))
            yield
            call.cancel()


def start(stub: job_pb2_grpc.JobServiceStub, *command: str) -> str:
    """The id of a job that may use every core."""
    request = job_pb2.RunJobReq(
        command=command[0], args=command[1:], network="none", maxCPU=100 * (os.cpu_count() or 1)
    )
    return stub.RunJob(request, timeout=60).job.uuid


def finish(stub: job_pb2_grpc.JobServiceStub, job_id: str) -> None:
    """Wait until the job is COMPLETED."""
    ended = stub.WaitJob(job_pb2.WaitJobReq(uuid=job_id), timeout=600).job
    if ended.status != "COMPLETED":
        raise RuntimeError(f"{ended.uuid}: {ended.status} {ended.reason} {ended.message}")


def at_once(work: Sequence[Callable[[], None]]) -> None:
    """All of it at the same time; raises the first failure."""
    failures: list[BaseException] = []

    def guarded(step: Callable[[], None]) -> None:
        try:
            step()
        except (grpc.RpcError, RuntimeError) as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(step,)) for step in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def costs(pids: dict[str, int], work: Callable[[], object]) -> dict[str, float]:
    """CPU seconds that each process spends while `work` is done."""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    work()
    return {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def expect(received: int, size: int) -> None:
    """Raise RuntimeError unless all bytes came."""
    if received != size:
        raise RuntimeError(f"{received} of {size} bytes arrived")


if __name__ == "__main__":
    main()
