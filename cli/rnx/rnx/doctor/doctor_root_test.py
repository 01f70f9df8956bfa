"""rnx doctor on this machine: as it is, and with one thing really taken away, which has to be the only thing named."""

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from joblet.common import pki
from joblet.common.roles import Role
from rnx.local import ports
from rnx.local.layout import SERVICES

pytestmark = pytest.mark.root

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
RNX = [sys.executable, "-m", "rnx", "doctor"]
NOBODY = "65534"


@dataclass(frozen=True, slots=True)
class Node:
    """A configuration with everything a node needs, in a directory that everybody can read."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "joblet-config.yml"

    @property
    def certs(self) -> pki.Bundle:
        return pki.Bundle(self.directory / "certs")

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def change(self, section: str, key: str, value: object) -> None:
        document = yaml.safe_load(self.config.read_text())
        document[section][key] = value
        self.config.write_text(yaml.safe_dump(document))

    def doctor(self, *before: str, arguments: tuple[str, ...] = ("--json",)) -> "subprocess.CompletedProcess[str]":
        """Runs it; the words of `before` run the command that follows them."""
        command = [*before, *RNX, "--config-file", str(self.config), *arguments]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)

    def gaps(self, *before: str) -> dict[str, dict[str, Any]]:
        """The checks that failed, by name; the exit code has to agree."""
        done = self.doctor(*before)
        findings = json.loads(done.stdout)
        failed = {finding["check"]: finding for finding in findings if finding["status"] == "failed"}
        assert done.returncode == (1 if failed else 0), done.stderr
        assert all(gap["cause"] and gap["cure"] for gap in findings if gap["status"] != "ok")
        return failed


def remains() -> tuple[str, list[str], set[str]]:
    """What doctor could leave: mounts, cgroups, files."""
    groups = [f"{top}/{name}" for top, names, _ in os.walk("/sys/fs/cgroup") for name in names if "doctor" in name]
    files = {str(path) for top in ("/run/joblet", "/run", "/tmp", "/var/lib") for path in Path(top).glob("*doctor*")}
    return Path("/proc/self/mountinfo").read_text(), groups, files


@pytest.fixture
def node() -> Iterator[Node]:
    """After each test the machine has to be as it was."""
    before = remains()
    directory = Path(tempfile.mkdtemp(prefix="jbtest-doctor-", dir="/var/tmp"))
    try:
        directory.chmod(0o755)
        made = Node(directory)
        _fill(made)
        content = sorted(str(path) for path in directory.rglob("*"))
        yield made
        assert sorted(str(path) for path in directory.rglob("*")) == content
        assert remains() == before
    finally:
        shutil.rmtree(directory)


def _fill(node: Node) -> None:
    pki.write_bundle(node.certs.directory)
    node.certs.directory.chmod(0o755)
    for key in node.certs.directory.glob("*-key.pem"):
        os.chown(key, int(NOBODY), int(NOBODY))  # for the test as another user; root reads everything
    node.state.mkdir()
    jobinit = node.directory / "jobinit"
    jobinit.write_bytes(Path(sys.executable).resolve().read_bytes()[:64])
    jobinit.chmod(0o755)
    free = ports.pick(2 * len(SERVICES), os.getpid() * 7, ())
    document: dict[str, dict[str, object]] = {
        name: {
            "listen": f"127.0.0.1:{free.pop()}",
            "metricsListen": f"127.0.0.1:{free.pop()}",
            "tls": _tls("gateway" if name == "gateway" else "node"),
        }
        for name in SERVICES
    }
    document["gateway"]["database"] = "sqlite:///gateway/gateway.db"
    document["executor"] |= {"stateDir": "state", "logstoreSocket": "run/l.sock", "jobinit": "jobinit"}
    document["logstore"] |= {"directory": "logs", "socket": "run/l.sock"}
    document["runtime"]["directory"] = "runtimes"
    node.config.write_text(yaml.safe_dump(document))


def _tls(name: str) -> dict[str, str]:
    return {"ca": "certs/ca-cert.pem", "cert": f"certs/{name}-cert.pem", "key": f"certs/{name}-key.pem"}


def with_mount(options: str, directory: Path) -> list[str]:
    """Runs a command in a mount namespace of its own, with a tmpfs at the directory."""
    mount = 'mount -t tmpfs -o "$1" jbtest "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", options, str(directory)]


def with_call_refused(number: int, code: int) -> list[str]:
    """Runs a command under a seccomp filter, as containers have one."""
    program = (
        "import os, sys; from rnx.doctor import syscalls; syscalls.no_new_privileges(); "
        f"syscalls.seccomp_refuse({number}, {code}); os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", program]


def test_a_healthy_machine_has_no_gap(node: Node) -> None:
    assert node.gaps() == {}


def test_twice_the_same_in_the_same_order(node: Node) -> None:
    first, second = (json.loads(node.doctor().stdout) for _ in range(2))
    assert [finding["check"] for finding in first] == [finding["check"] for finding in second]
    assert [list(finding) for finding in first] == [["check", "status", "found", "cause", "cure"]] * len(first)
    assert len({finding["check"] for finding in first}) == len(first) > 35


def test_for_people_without_a_terminal_there_are_no_colours(node: Node) -> None:
    done = node.doctor(arguments=())
    assert "\x1b" not in done.stdout
    assert "ok       cgroup groups: made and removed in " in done.stdout
    assert "nothing failed" in done.stderr


def test_on_a_terminal_there_are(node: Node) -> None:
    ours, theirs = os.openpty()
    command = [*RNX, "--config-file", str(node.config)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: its end is closed
            while part := os.read(ours, 65536):
                shown += part
        process.wait(120)
    os.close(ours)
    assert b"\x1b[32mok" in shown


@pytest.mark.parametrize("name", ["sys_admin", "setuid", "mknod", "dac_override", "kill", "net_admin", "sys_ptrace"])
def test_a_capability_less(node: Node, name: str) -> None:
    gaps = node.gaps("setpriv", f"--bounding-set=-{name}")
    assert list(gaps) == ["privileges"]
    assert gaps["privileges"]["found"] == f"root without CAP_{name.upper()}"


def test_another_user(node: Node) -> None:
    os.chown(node.directory / "state", int(NOBODY), int(NOBODY))
    gaps = node.gaps("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
    assert list(gaps) == ["privileges"]
    assert gaps["privileges"]["cure"].startswith("run `sudo rnx doctor`")


@pytest.mark.parametrize(
    ("options", "cause", "cure"),
    [
        ("ro,size=128m", "the file system is mounted read-only", "`mount -o remount,rw {state}`"),
        ("size=1m", "less than 64 MiB free", "executor.stateDir"),
        ("size=128m,nr_inodes=50", "room for less than 1000 further files", "`df -i {state}`"),
    ],
)
def test_a_state_directory_that_does_not_do(node: Node, options: str, cause: str, cure: str) -> None:
    gaps = node.gaps(*with_mount(options, node.state))
    assert list(gaps) == ["state directory"]
    assert gaps["state directory"]["cause"] == cause
    assert cure.format(state=node.state) in gaps["state directory"]["cure"]


def test_run_mounted_read_only(node: Node) -> None:
    gaps = node.gaps(*with_mount("ro,size=32m", Path("/run")))
    assert list(gaps) == ["run directory"]
    assert "`mount -o remount,rw /run`" in gaps["run directory"]["cure"]


@pytest.mark.parametrize(
    ("check", "number", "code", "cause"),
    [
        ("clone3", 435, errno.ENOSYS, "a seccomp filter hides it"),
        ("bind mounts", 442, errno.EPERM, "a seccomp filter refuses it"),
        ("pidfd", 424, errno.EPERM, "a seccomp filter refuses it"),
    ],
)
def test_a_system_call_less(node: Node, check: str, number: int, code: int, cause: str) -> None:
    gaps = node.gaps(*with_call_refused(number, code))
    assert list(gaps) == [check]
    assert gaps[check]["cause"].startswith(cause)


def test_a_call_that_only_volumes_need(node: Node) -> None:
    done = node.doctor(*with_call_refused(430, errno.ENOSYS))
    finding = next(finding for finding in json.loads(done.stdout) if finding["check"] == "fsopen")
    assert (done.returncode, finding["status"], "volumes" in finding["cause"]) == (0, "warning", True)


def test_few_open_files(node: Node) -> None:
    assert list(node.gaps("prlimit", "--nofile=256:256")) == ["open files"]


def test_a_port_that_is_taken(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        node.change("gateway", "listen", f"127.0.0.1:{port}")
        gaps = node.gaps()
    assert list(gaps) == ["ports"]
    assert gaps["ports"]["found"] == f"cannot be had: 127.0.0.1:{port} (gateway.listen)"
    assert f"(pid {os.getpid()}) has {port}" in gaps["ports"]["cause"]


def test_no_jobinit(node: Node) -> None:
    node.change("executor", "jobinit", "elsewhere")
    assert list(node.gaps()) == ["jobinit"]


def test_a_key_that_changes_nothing(node: Node) -> None:
    node.change("executor", "stateDri", "elsewhere")
    done = node.doctor()
    failed = [finding["check"] for finding in json.loads(done.stdout) if finding["status"] == "failed"]
    assert "configuration" in failed


def expired(node: Node) -> None:
    ca = pki.read_pair(node.certs.ca_cert, node.certs.ca_key)
    now = datetime.now(UTC)
    pair = pki.issue(
        ca, "gateway", Role.GATEWAY, not_before=now - timedelta(days=9), not_after=now - timedelta(hours=1)
    )
    pki.write_pair(pair, node.certs.cert("gateway"), node.certs.key("gateway"))


def other_key(node: Node) -> None:
    shutil.copy(node.certs.key("node"), node.certs.key("gateway"))


def other_ca(node: Node) -> None:
    pki.write_pair(
        pki.issue(pki.create_ca(), "gateway", Role.GATEWAY), node.certs.cert("gateway"), node.certs.key("gateway")
    )


@pytest.mark.parametrize(
    ("spoil", "found"),
    [(expired, "gateway-cert.pem expired at"), (other_key, "does not belong to"), (other_ca, "is not signed by")],
)
def test_certificates(node: Node, spoil: Callable[[Node], None], found: str) -> None:
    spoil(node)
    gaps = node.gaps()
    assert list(gaps) == ["certificate of gateway"]
    assert found in gaps["certificate of gateway"]["found"]
