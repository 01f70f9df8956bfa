"""Certificates are checked with `ssl`, which is OpenSSL and not the library that made them."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from joblet.common import pki
from joblet.common.errors import InvalidArgument
from joblet.common.pki import KeyPair
from joblet.common.roles import Role


@pytest.fixture(scope="module")
def ca() -> KeyPair:
    return pki.create_ca("jbtest CA", organization="jbtest")


def handshake(directory: Path, ca: KeyPair, server: KeyPair, client: KeyPair, name: str) -> None:
    """A whole mutual handshake in memory. Raises ssl.SSLError when one side refuses the other."""
    for stem, pair in (("ca", ca), ("server", server), ("client", client)):
        pki.write_pair(pair, directory / f"{stem}.pem", directory / f"{stem}-key.pem")
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory / "ca.pem")
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_cert_chain(directory / "server.pem", directory / "server-key.pem")
    client_context = ssl.create_default_context(cafile=directory / "ca.pem")
    client_context.load_cert_chain(directory / "client.pem", directory / "client-key.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client_context.wrap_bio(to_client, to_server, server_hostname=name),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(5):
        for end in ends[:]:
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not ends


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "node-1", "a.example.com"])
def test_a_node_is_known_by_every_host_and_by_its_id(tmp_path: Path, ca: KeyPair, name: str) -> None:
    node = pki.issue(ca, "node-1", Role.NODE, hosts=("localhost", "127.0.0.1", "::1", "a.example.com"))
    handshake(tmp_path, ca, node, pki.issue(ca, "anna", Role.ADMIN), name)


def test_another_name_is_refused(tmp_path: Path, ca: KeyPair) -> None:
    node = pki.issue(ca, "node-1", Role.NODE, hosts=("localhost",))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tmp_path, ca, node, pki.issue(ca, "anna", Role.ADMIN), "node-2")


def test_services_may_be_clients_and_people_may_not_be_servers(tmp_path: Path, ca: KeyPair) -> None:
    node, gateway = pki.issue(ca, "node-1", Role.NODE), pki.issue(ca, "gw", Role.GATEWAY)
    handshake(tmp_path, ca, node, gateway, "node-1")
    handshake(tmp_path, ca, gateway, node, "gw")
    person = pki.issue(ca, "anna", Role.ADMIN, hosts=("localhost",))
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake(tmp_path, ca, person, gateway, "localhost")


def test_expired_and_foreign_clients_are_refused(tmp_path: Path, ca: KeyPair) -> None:
    gateway, now = pki.issue(ca, "gw", Role.GATEWAY), datetime.now(UTC)
    expired = pki.issue(ca, "anna", Role.ADMIN, not_before=now - timedelta(days=2), not_after=now - timedelta(days=1))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        handshake(tmp_path, ca, gateway, expired, "gw")
    foreign = pki.issue(pki.create_ca("jbtest CA", organization="jbtest"), "anna", Role.ADMIN)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, ca, gateway, foreign, "gw")


def test_no_certificate_can_sign_another(tmp_path: Path, ca: KeyPair) -> None:
    gateway = pki.issue(ca, "gw", Role.GATEWAY)
    below = pki.issue(pki.issue(ca, "anna", Role.ADMIN), "mallory", Role.ADMIN)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, ca, gateway, below, "gw")


def test_description(ca: KeyPair) -> None:
    start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
    cert = pki.issue(
        ca, "anna", "admin", hosts=("10.0.0.1",), organization="acme", not_before=start, not_after=end
    ).cert
    description = pki.describe(cert)
    identity = description.identity
    assert (identity.common_name, identity.ou, identity.organization, identity.role) == (
        "anna",
        "admin",
        "acme",
        Role.ADMIN,
    )
    assert (description.not_before, identity.not_after) == (start, end)
    assert description.issuer == "O=jbtest,CN=jbtest CA"
    assert description.hosts == ("anna", "10.0.0.1")
    assert description.key_type == "ECDSA secp256r1"
    assert not description.is_ca
    assert pki.describe(ca.cert).is_ca
    assert len(description.fingerprint_sha256.split(":")) == 32


def test_serials_are_random(ca: KeyPair) -> None:
    serials = {pki.identity_of(pki.issue(ca, "anna", Role.ADMIN).cert).serial for _ in range(20)}
    assert len(serials) == 20
    assert all(0 < serial < 2**159 for serial in serials)  # RFC 5280 4.1.2.2: positive, 20 octets


def test_names_that_are_no_host_are_no_alternative_names(ca: KeyPair) -> None:
    assert pki.describe(pki.issue(ca, "Anna Müller", Role.ADMIN).cert).hosts == ()
    assert pki.describe(pki.issue(ca, "10.0.0.7", Role.ADMIN).cert).hosts == ()


@pytest.mark.parametrize("host", ["", "a b", "host:50051", "-", "a..b", "https://x"])
def test_hosts_are_names_or_addresses(ca: KeyPair, host: str) -> None:
    with pytest.raises(InvalidArgument, match="expected a host name or an IP address"):
        pki.issue(ca, "x", Role.NODE, hosts=(host,))


def test_bad_subjects_and_times_are_refused(ca: KeyPair) -> None:
    with pytest.raises(InvalidArgument, match="1 to 64 characters"):
        pki.issue(ca, "", Role.NODE)
    with pytest.raises(InvalidArgument, match="1 to 64 characters"):
        pki.issue(ca, "x" * 65, Role.NODE)
    with pytest.raises(InvalidArgument, match="before it begins"):
        pki.issue(ca, "x", Role.NODE, days=-1)
    with pytest.raises(InvalidArgument, match="not a PEM certificate"):
        pki.describe(b"nonsense")


def test_keys_are_the_owners_alone(tmp_path: Path, ca: KeyPair) -> None:
    cert, key = tmp_path / "deep/cert.pem", tmp_path / "deep/key.pem"
    pki.write_pair(ca, cert, key)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key, cert)] == [0o600, 0o644]
    assert pki.read_pair(cert, key) == ca
    assert sorted(path.name for path in cert.parent.iterdir()) == ["cert.pem", "key.pem"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "key.pem"
    pki.write_file(target, b"old", mode=0o600)
    with pytest.raises(TypeError):
        pki.write_file(target, "no bytes", mode=0o600)  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_bundle(tmp_path: Path) -> None:
    bundle = pki.write_bundle(tmp_path / "certs", hosts=("localhost", "192.0.2.1"), node_id="node-7")
    assert stat.S_IMODE(bundle.directory.stat().st_mode) == 0o700
    names = ("gateway", "node", "admin-client", "viewer-client", "client")
    identities = {name: pki.identity_of(bundle.cert(name).read_bytes()) for name in names}
    assert {name: identity.ou for name, identity in identities.items()} == {
        "gateway": "gateway",
        "node": "node",
        "admin-client": "admin",
        "viewer-client": "viewer",
        "client": "admin",
    }
    assert identities["node"].common_name == "node-7"
    assert pki.describe(bundle.cert("node").read_bytes()).hosts == ("node-7", "localhost", "192.0.2.1")
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in bundle.directory.glob("*-key.pem"))
    with pytest.raises(InvalidArgument, match="already holds a CA"):
        pki.write_bundle(bundle.directory)
