"""How long a job takes from submission to its end, beside local sandboxes doing the same without a network in between.

Run as root: `make bench` or `python bench/launch.py [--rounds N]`. Prints Markdown. Peers that are not installed are
named as missing, never left out in silence.

 * joblet none / host: RunJob, then WaitJob, by an mTLS client through the gateway, /bin/true, until COMPLETED
 * rnx job run --wait: the CLI's whole process (it also pays for the interpreter and for importing grpc)
 * the phases of a start: means of joblet_job_start_seconds over the jobs of the first table; "running" is all of them,
   with the ways between the processes
 * empty services: the same two calls through a gateway and a node that do nothing (emptyservices.py)
 * bwrap: all namespaces and the same kind of root; unshare: the floor (namespaces only); runc: an OCI bundle
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import grpc
from emptyservices import empty_services
from local_system import RNX, LocalSystem, local_system, run_rnx
from measure import interleaved, machine, table

from joblet.api import job_pb2, job_pb2_grpc

TRUE = "/bin/true"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="joblet-bench-") as name:
        directory = Path(name)
        peers, missing = local_peers(directory)
        with local_system(directory / "joblet") as system, empty_services(system.certificates) as empty:
            report(system, {"empty services": empty, **peers}, missing, options.rounds)


def report(system: LocalSystem, peers: dict[str, Callable[[], None]], missing: list[str], rounds: int) -> None:
    """Print every table."""
    print(f"## bench/launch\n\n{machine()}\n")
    for name in missing:
        print(f"not measured, not installed: {name}\n")
    stub = job_pb2_grpc.JobServiceStub(channel(system))
    cli = [str(RNX), "--config", f"{system.directory}/rnx-config.yml", "job", "run", "--wait", "--network=none", TRUE]
    work = {
        "joblet none": lambda: run_to_end(stub, "none"),
        "joblet host": lambda: run_to_end(stub, "host"),
        "rnx job run --wait": lambda: quiet(cli),
        **peers,
    }
    peer = "bwrap" if "bwrap" in peers else "unshare"
    before = phase_sums(system)
    print(table("back to back", interleaved(work, rounds), peer), "\n")
    print(phase_table(before, phase_sums(system)), "\n")
    print(table("100 ms apart", interleaved(work, max(10, rounds // 4), 0.1), peer), "\n")
    print("### jobs per second\n\n| clients | jobs/s |\n|---:|---:|")
    for clients in (1, 8, 32):
        print(f"| {clients} | {rate(system, clients, rounds * 8):.0f} |")


def channel(system: LocalSystem) -> grpc.Channel:
    """A mutually authenticated channel to the system's gateway, as admin."""
    files = [(system.certificates / name).read_bytes() for name in ("ca-cert.pem", "client-key.pem", "client-cert.pem")]
    return grpc.secure_channel(system.address, grpc.ssl_channel_credentials(*files))


def run_to_end(stub: job_pb2_grpc.JobServiceStub, network: str) -> None:
    """One job from submission to COMPLETED."""
    job = stub.RunJob(job_pb2.RunJobReq(command=TRUE, network=network), timeout=60).job
    ended = stub.WaitJob(job_pb2.WaitJobReq(uuid=job.uuid), timeout=60).job
    if ended.status != "COMPLETED":
        raise RuntimeError(f"{ended.uuid}: {ended.status} {ended.reason} {ended.message}")


Sums = dict[str, tuple[float, float]]
PHASES = ("gateway", "store", "executor", "jobinit", "attest", "exec", "running")


def phase_sums(system: LocalSystem) -> Sums:
    """Of each phase the seconds and the number of starts that the services have counted so far."""
    sums: Sums = {}
    for service in ("gateway", "executor"):
        with urlopen(metrics_url(system, service), timeout=10) as answer:  # - the system's own
            text = answer.read().decode()
        for phase in PHASES:
            found = [
                re.search(rf'^joblet_job_start_seconds_{what}\{{phase="{phase}"\}} (\S+)$', text, re.MULTILINE)
                for what in ("sum", "count")
            ]
            if found[0] and found[1]:
                sums[phase] = float(found[0][1]), float(found[1][1])
    return sums


def metrics_url(system: LocalSystem, service: str) -> str:
    """Where a service of the system answers /metrics."""
    for row in json.loads(run_rnx("--json", "local", "status", "--dir", system.directory).stdout)["services"]:
        if row["service"] == service:
            return str(row["metrics"])
    raise RuntimeError(f"rnx local status does not name the {service}")


def phase_table(before: Sums, after: Sums) -> str:
    """A Markdown table of the mean of each phase between two looks."""
    lines = ["### phases of a start", "", "| phase | mean ms |", "|---|---:|"]
    for phase in PHASES:
        seconds, count = (now - then for now, then in zip(after[phase], before[phase], strict=True))
        lines.append(f"| {phase} | {seconds / count * 1e3:.2f} |")
    return "\n".join(lines)


def rate(system: LocalSystem, clients: int, jobs: int) -> float:
    """Jobs per second with `clients` submitting, each waiting for its job before the next; from when all of them are
    connected."""
    each = max(1, jobs // clients)
    failures: list[BaseException] = []
    connected = threading.Barrier(clients + 1)

    def client() -> None:
        try:
            with channel(system) as own:
                grpc.channel_ready_future(own).result(timeout=60)
                stub = job_pb2_grpc.JobServiceStub(own)
                connected.wait(60)
                for _ in range(each):
                    run_to_end(stub, "none")
        except (grpc.RpcError, grpc.FutureTimeoutError, threading.BrokenBarrierError, RuntimeError) as error:
            connected.abort()
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):  # then there is a failure
        connected.wait(60)
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return each * clients / (time.perf_counter() - start)


def quiet(command: list[str]) -> None:
    """Run a command that must succeed, its output thrown away."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def local_peers(directory: Path) -> tuple[dict[str, Callable[[], None]], list[str]]:
    """The local sandboxes by name, and the names of those that are not installed."""
    commands = {
        "unshare": ["unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", "--net", TRUE],
        "bwrap": [
            "bwrap", "--unshare-all", "--uid", "1000", "--gid", "1000", "--ro-bind", "/usr", "/usr",
            "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/work", TRUE,
        ],
        "runc": ["runc", "run", "--bundle", str(directory / "bundle"), "joblet-bench"],
    }  # fmt: skip
    present = {name: command for name, command in commands.items() if shutil.which(command[0])}
    if "runc" in present:
        _write_bundle(directory / "bundle")
    missing = sorted(commands.keys() - present.keys())
    return {name: partial(quiet, command) for name, command in present.items()}, missing


def _write_bundle(bundle: Path) -> None:
    # The default OCI configuration with a root that is the machine's own /usr, read-only, and our command.
    (bundle / "rootfs").mkdir(parents=True)
    quiet(["runc", "spec", "--bundle", str(bundle)])
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=[TRUE])
    for name in ("usr", "proc", "dev", "sys"):
        (bundle / "rootfs" / name).mkdir()
    for name in ("bin", "lib", "lib64"):
        (bundle / "rootfs" / name).symlink_to(f"usr/{name}")
    config["mounts"].append(
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro", "nosuid", "nodev"]}
    )
    (bundle / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
