from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from joblet.common import pki
from joblet.common.config import Config, ExecutorConfig, GatewayConfig, LogstoreConfig, RuntimeConfig, TlsFiles
from joblet.common.pki import KeyPair
from joblet.common.roles import Role
from rnx.doctor import certificates
from rnx.doctor.caller import NUMBERS, Caller
from rnx.doctor.findings import Finding, Status

ROOT = Caller(0, frozenset(NUMBERS))
NOW = datetime.now(UTC)


@pytest.fixture(scope="session")
def ca() -> KeyPair:
    return pki.create_ca()


@pytest.fixture
def files(tmp_path: Path, ca: KeyPair) -> TlsFiles:
    """A good set of a node."""
    made = TlsFiles(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    made.ca.write_bytes(ca.cert)
    pki.write_pair(pki.issue(ca, "node-1", Role.NODE, hosts=["localhost"]), made.cert, made.key)
    return made


def look(files: TlsFiles, now: datetime | None = None, services: tuple[str, ...] = ("executor", "logstore")) -> Finding:
    # Not NOW, which a long run leaves behind the beginning of certificates that are made later.
    return certificates.one(files, services, now or datetime.now(UTC), ROOT)


def test_a_good_set(files: TlsFiles) -> None:
    finding = look(files)
    assert (finding.check, finding.status) == ("certificate of executor, logstore", Status.OK)
    assert f"signed by {files.ca}" in finding.found


def test_expired(files: TlsFiles) -> None:
    finding = look(files, NOW + timedelta(days=366))
    assert finding.status is Status.FAILED
    assert finding.found.startswith(f"{files.cert} expired at ")
    assert "rnx certs init" in finding.cure


def test_the_ca_can_expire_too(files: TlsFiles, ca: KeyPair) -> None:
    pki.write_pair(pki.issue(ca, "node-1", Role.NODE, days=5000), files.cert, files.key)
    assert look(files, NOW + timedelta(days=3700)).found.startswith(f"{files.ca} expired at ")


def test_ends_soon(files: TlsFiles) -> None:
    finding = look(files, NOW + timedelta(days=339, hours=12))
    assert (finding.status, finding.cause) == (Status.WARNING, "it ends in 25 days")


def test_not_yet_valid(files: TlsFiles) -> None:
    finding = look(files, NOW - timedelta(days=1))
    assert finding.status is Status.FAILED
    assert "valid only from" in finding.found
    assert "clock" in finding.cause


def test_the_key_of_another_certificate(files: TlsFiles, ca: KeyPair) -> None:
    files.key.write_bytes(pki.issue(ca, "other", Role.NODE).key)
    finding = look(files)
    assert (finding.status, finding.found) == (Status.FAILED, f"{files.key} does not belong to {files.cert}")


def test_another_ca(files: TlsFiles) -> None:
    files.ca.write_bytes(pki.create_ca().cert)
    assert look(files).found == f"{files.cert} is not signed by {files.ca}"


def test_several_cas_in_one_file(files: TlsFiles, ca: KeyPair) -> None:
    files.ca.write_bytes(pki.create_ca("Other CA").cert + ca.cert)
    assert look(files).status is Status.OK


def test_a_node_is_no_ca(files: TlsFiles) -> None:
    """A certificate signed by the key of a node."""
    node = KeyPair(files.cert.read_bytes(), files.key.read_bytes())
    pki.write_pair(pki.issue(node, "node-2", Role.NODE), files.cert, files.key)
    files.ca.write_bytes(node.cert)
    assert look(files).found == f"{files.cert} is not signed by {files.ca}"


def test_another_role(files: TlsFiles) -> None:
    finding = look(files, services=("gateway",))
    assert (finding.status, finding.found) == (Status.FAILED, f"{files.cert} has OU=node, not gateway")


def test_a_key_that_others_can_read(files: TlsFiles) -> None:
    files.key.chmod(0o644)
    finding = look(files)
    assert (finding.status, finding.cure) == (Status.WARNING, f"`chmod 0600 {files.key}`")


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: path.unlink(), " does not exist"),
        (lambda path: path.write_text("nonsense"), " is no "),
        (lambda path: (path.unlink(), path.mkdir()), " is no file"),
    ],
)
def test_each_file_is_named(files: TlsFiles, name: str, spoil: Callable[[Path], object], text: str) -> None:
    path: Path = getattr(files, name)
    spoil(path)
    finding = look(files)
    assert finding.status is Status.FAILED
    assert finding.found.startswith(f"{path}{text}")


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_a_file_that_is_not_there_is_not_to_be_looked_at(files: TlsFiles, name: str) -> None:
    path: Path = getattr(files, name)
    path.unlink()
    finding = look(files)
    assert finding.cure.startswith("name the right file in the configuration (executor.tls, logstore.tls), or ")
    assert f"put {path.name} there" in finding.cure
    assert "rnx certs show" not in finding.cure


def test_files_that_services_share_are_told_once(files: TlsFiles, tmp_path: Path, ca: KeyPair) -> None:
    own = TlsFiles(files.ca, tmp_path / "g.pem", tmp_path / "g-key.pem")
    pki.write_pair(pki.issue(ca, "gateway", Role.GATEWAY), own.cert, own.key)
    roundabout = TlsFiles(files.ca, tmp_path / "x/../cert.pem", files.key)
    config = Config(
        gateway=GatewayConfig(tls=own),
        executor=ExecutorConfig(tls=files),
        logstore=LogstoreConfig(tls=roundabout),
        runtime=RuntimeConfig(tls=files),
    )
    found = list(certificates.of_config(config, datetime.now(UTC), ROOT))
    assert [finding.check for finding in found] == [
        "certificate of gateway", "certificate of executor, logstore, runtime",
    ]  # fmt: skip
    assert {finding.status for finding in found} == {Status.OK}
