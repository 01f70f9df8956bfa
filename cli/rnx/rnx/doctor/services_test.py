import errno
import os
import socket
import sys
import zipfile
from pathlib import Path

import pytest

from rnx.doctor import services
from rnx.doctor.findings import Status
from rnx.doctor.services import Holder

ADDRESSES = {"gateway.listen": "0.0.0.0:50051", "executor.listen": "0.0.0.0:50052"}
TAKEN = OSError(errno.EADDRINUSE, "Address already in use")
ELF = b"\x7fELF" + bytes(14)
CONFIG = Path("/opt/joblet/joblet-config.yml")


def test_free_ports() -> None:
    finding = services.ports(ADDRESSES, lambda _address: None, lambda _port: None)
    assert (finding.status, finding.found) == (Status.OK, "2 of 2 are free")


def test_ports_of_our_own_services() -> None:
    finding = services.ports(ADDRESSES, lambda _address: TAKEN, lambda _port: Holder(1, "joblet-gateway", ours=True))
    assert (finding.status, finding.found) == (Status.OK, "0 of 2 are free, 2 of them used by Joblet already")


def test_a_port_that_somebody_else_has() -> None:
    taken = {"0.0.0.0:50052": TAKEN}
    finding = services.ports(ADDRESSES, taken.get, lambda _port: Holder(77, "nginx", ours=False))
    assert (finding.status, finding.found) == (Status.FAILED, "cannot be had: 0.0.0.0:50052 (executor.listen)")
    assert finding.cause == "nginx (pid 77) has 50052"
    assert "executor.listen" in finding.cure


def test_an_address_that_is_not_this_machines() -> None:
    refused = {"0.0.0.0:50051": OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")}
    finding = services.ports(ADDRESSES, refused.get, lambda _port: None)
    assert (finding.status, finding.cause) == (Status.FAILED, "cannot assign requested address")


def test_a_real_listener_is_in_the_way_and_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        error = services.bind(f"127.0.0.1:{port}")
        assert error is not None
        assert error.errno == errno.EADDRINUSE
        found = services.holder(port, None)
    assert found is not None
    assert (found.pid, found.ours) == (os.getpid(), False)
    assert services.bind(f"127.0.0.1:{port}") is None


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["python", "-I", "/opt/x/bin/joblet-gateway", "--config", "/x.yml"], True),
        (["python", "-m", "joblet.executor"], True),
        (["/opt/joblet/bin/joblet-logstore.pex"], True),
        (["python", "/src/services/gateway/joblet/gateway/__main__.py"], False),
        (["python", "-sE", "/cache/venvs/1/2/pex", "--config", str(CONFIG)], True),
        (["python", "-sE", "/cache/venvs/1/2/pex", "--config", "/etc/other.yml"], False),
        (["vim", str(CONFIG)], False),
        (["/usr/sbin/nginx", "-g", "daemon off;"], False),
    ],
)
def test_our_own_services_are_known(words: list[str], ours: bool) -> None:
    assert services.is_ours("\0".join(words) + "\0", CONFIG) is ours


def test_jobinit_of_the_configuration_is_not_passed_over(tmp_path: Path) -> None:
    finding = services.jobinit(tmp_path / "jobinit", "x86_64", [Path(sys.executable)])
    assert (finding.status, finding.found) == (Status.FAILED, f"{tmp_path / 'jobinit'} does not exist")


def program(path: Path, machine: int, mode: int = 0o755) -> Path:
    path.write_bytes(ELF + machine.to_bytes(2, "little") + b"more")
    path.chmod(mode)
    return path


def test_jobinit_that_fits(tmp_path: Path) -> None:
    path = program(tmp_path / "jobinit", 62)
    assert services.jobinit(None, "x86_64", [tmp_path / "none", path]).found == str(path)
    finding = services.jobinit(path, "aarch64")
    assert (finding.status, finding.found) == (Status.FAILED, f"{path} is built for x86_64")


def test_jobinit_that_cannot_be_executed(tmp_path: Path) -> None:
    path = program(tmp_path / "jobinit", 62, 0o644)
    finding = services.jobinit(path, "x86_64")
    assert (finding.status, f"`chmod 0755 {path}`" in finding.cure) == (Status.FAILED, True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    assert "no Linux executable" in services.jobinit(path, "x86_64").found


def test_jobinit_inside_a_pex(tmp_path: Path) -> None:
    pex = tmp_path / "joblet-executor.pex"
    with zipfile.ZipFile(pex, "w") as archive:
        archive.writestr("other", "")
    assert services.jobinit(None, "x86_64", [pex]).status is Status.FAILED
    with zipfile.ZipFile(pex, "a") as archive:
        archive.writestr("joblet/executor/bin/jobinit", "")
    assert services.jobinit(None, "x86_64", [pex]).found == f"inside {pex}"


def test_no_jobinit_anywhere(tmp_path: Path) -> None:
    finding = services.jobinit(None, "x86_64", [tmp_path / "a", tmp_path / "b"])
    assert (finding.status, finding.cause) == (Status.FAILED, f"looked for it: {tmp_path / 'a'}, {tmp_path / 'b'}")
