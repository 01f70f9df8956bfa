"""Runs a whole Joblet from the PEX files in dist/: certificates, four services, one job, and down again.

Run as root: `python tools/try_pex.py`. Everything, PEX's own cache too, stays in a temporary folder; the services run
without any of a checkout's paths in their environment, so that what works here is in the files.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DIST = Path(__file__).resolve().parents[1] / "dist"
SERVICES = ("logstore", "runtime", "executor", "gateway")
START_SECONDS = 60
CONFIG = """\
executor:
  listen: 127.0.0.1:{executor}
  metricsListen: 127.0.0.1:{executor_metrics}
  gateways: [127.0.0.1:{gateway}]
  logstoreAddress: 127.0.0.1:{logstore}
  runtimeAddress: 127.0.0.1:{runtime}
  advertise: 127.0.0.1:{executor}
  stateDir: executor
  logstoreSocket: logstore.sock
  cgroupParent: joblet-try-pex
  tls: {{ca: certs/ca-cert.pem, cert: certs/node-cert.pem, key: certs/node-key.pem}}
logstore:
  listen: 127.0.0.1:{logstore}
  metricsListen: 127.0.0.1:{logstore_metrics}
  directory: logs
  socket: logstore.sock
  tls: {{ca: certs/ca-cert.pem, cert: certs/node-cert.pem, key: certs/node-key.pem}}
runtime:
  listen: 127.0.0.1:{runtime}
  metricsListen: 127.0.0.1:{runtime_metrics}
  directory: runtimes
  tls: {{ca: certs/ca-cert.pem, cert: certs/node-cert.pem, key: certs/node-key.pem}}
gateway:
  listen: 127.0.0.1:{gateway}
  metricsListen: 127.0.0.1:{gateway_metrics}
  database: sqlite:///{directory}/gateway.db
  tls: {{ca: certs/ca-cert.pem, cert: certs/gateway-cert.pem, key: certs/gateway-key.pem}}
"""


def free_ports(count: int) -> Iterator[int]:
    """Ports of the loopback interface, all different, free a moment ago."""
    with ExitStack() as held:
        for _ in range(count):
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            yield probe.getsockname()[1]


@contextmanager
def running(service: str, directory: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A service from its PEX; SIGTERM at the end has to end it with exit code 0."""
    with (directory / f"{service}.log").open("wb") as log:
        command = [str(DIST / f"joblet-{service}.pex"), "--config", str(directory / "joblet-config.yml")]
        process = subprocess.Popen(command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stderr=log)
    try:
        yield process
        process.terminate()
        if process.wait(START_SECONDS) != 0:
            raise SystemExit(f"joblet-{service}.pex ended with {process.returncode} on SIGTERM")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_ready(service: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns when /readyz says 200."""
    deadline = time.monotonic() + START_SECONDS
    said = "nothing"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except urllib.error.HTTPError as error:
            said = error.read().decode().strip()
        except OSError as error:
            said = str(error)
        time.sleep(0.05)
    raise SystemExit(f"joblet-{service}.pex is not ready (exit code {process.poll()}): {said}")


def try_all(directory: Path) -> None:
    """One job on a system made of PEX files only."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "PEX_ROOT": str(directory / "pex")}

    def rnx(*arguments: str) -> str:
        command = [str(DIST / "rnx.pex"), *arguments]
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"rnx.pex {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    print(rnx("--help").splitlines()[0])
    rnx("certs", "init", "--dir", "certs")
    names = [f"{service}{kind}" for service in SERVICES for kind in ("", "_metrics")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    (directory / "joblet-config.yml").write_text(CONFIG.format(directory=directory, **ports))
    with ExitStack() as system:
        for service in SERVICES:
            process = system.enter_context(running(service, directory, environment))
            system.callback(print, f"joblet-{service}.pex: served")
            wait_ready(service, ports[f"{service}_metrics"], process)
        server = f"--server=127.0.0.1:{ports['gateway']}"
        # The gateway is ready before its first node has made itself known.
        deadline = time.monotonic() + START_SECONDS
        while True:
            started = subprocess.run(
                [str(DIST / "rnx.pex"), server, "job", "run", "sh", "-c", "echo from a job"],
                cwd=directory, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if started.returncode == 0 or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        found = re.search(r"^ID: (.+)$", started.stdout, re.MULTILINE)
        if not found:
            raise SystemExit(f"no job: {started.stdout}{started.stderr}")
        output = rnx(server, "job", "log", found[1])
        status = rnx(server, "job", "status", found[1])
        if output != "from a job\n" or "Status: COMPLETED" not in status:
            raise SystemExit(f"the job said {output!r}\n{status}")
        print(f"job {found[1]}: COMPLETED, its output is there")


def main() -> None:
    """Names the services' last words when something fails."""
    if os.geteuid() != 0:
        raise SystemExit("run as root: the executor makes namespaces and cgroups")
    with tempfile.TemporaryDirectory(prefix="joblet-pex-") as name:
        directory = Path(name)
        try:
            try_all(directory)
        except SystemExit:
            for log in sorted(directory.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
