"""Certificates: one CA per installation, ECDSA P-256, roles in the subject's OU.

The subject is `CN=<name>, OU=<role>, O=<organization>`. Servers that are clients too (gateway, node) carry both
extended key usages, people's certificates only clientAuth. Every certificate names its CN as a DNS name as well, if it
can be one: the gateway dials the services of a node by the node's id, wherever they listen. `cryptography` is imported
inside the functions: rnx loads this module for every command.
"""

import ipaddress
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from joblet.common.errors import InvalidArgument
from joblet.common.roles import Identity, Role

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

ORGANIZATION = "joblet"
CA_DAYS = 3650
CERTIFICATE_DAYS = 365
CLOCK_SKEW = timedelta(minutes=5)  # a certificate made now must be valid on a machine whose clock is behind

_DNS_NAME = re.compile(r"(?=.{1,253}$)(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?)+", re.ASCII)
_SERVER_ROLES = frozenset({Role.GATEWAY.value, Role.NODE.value})


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    cert: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Description:
    """What a certificate says, for `rnx certs show` and for explaining refusals."""

    identity: Identity
    issuer: str
    not_before: datetime
    hosts: tuple[str, ...]
    is_ca: bool
    key_type: str
    fingerprint_sha256: str


def create_ca(common_name: str = "Joblet CA", *, organization: str = ORGANIZATION, days: int = CA_DAYS) -> KeyPair:
    """A new self-signed CA that may sign end certificates only (path length 0)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    key = _new_key()
    name = _subject(common_name, "", organization)
    now = datetime.now(UTC)
    certificate = (
        _builder(name, name, key, now - CLOCK_SKEW, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue(
    ca: KeyPair,
    common_name: str,
    role: str,
    *,
    hosts: Sequence[str] = (),
    days: int = CERTIFICATE_DAYS,
    organization: str = ORGANIZATION,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> KeyPair:
    """A certificate for `common_name` in `role` (its OU; "" for none), valid for `hosts` (names or IP addresses).

    Raises InvalidArgument for a host that is neither, for an empty or overlong name and for times out of order.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    ca_key = serialization.load_pem_private_key(ca.key, password=None)
    if not isinstance(ca_key, EllipticCurvePrivateKey):
        raise InvalidArgument("the key of the CA is not an ECDSA key")
    ca_certificate = x509.load_pem_x509_certificate(ca.cert)
    now = datetime.now(UTC)
    start = not_before or now - CLOCK_SKEW
    end = not_after or now + timedelta(days=days)
    if end <= start:
        raise InvalidArgument(f"a certificate cannot end ({end}) before it begins ({start})", field="days")
    key = _new_key()
    builder = (
        _builder(_subject(common_name, role, organization), ca_certificate.subject, key, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_usages(role)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority(ca_certificate), critical=False)
    )
    names = _alternative_names(common_name, hosts)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pair(builder.sign(ca_key, hashes.SHA256()), key)


def describe(cert: bytes) -> Description:
    """What the first certificate in `cert` (PEM) says. Raises InvalidArgument if there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    certificate = _load(cert)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        constraints = False
    return Description(
        identity=identity_of(cert),
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        hosts=_hosts(certificate),
        is_ca=constraints,
        key_type=_key_type(certificate),
        fingerprint_sha256=certificate.fingerprint(hashes.SHA256()).hex(":"),
    )


def identity_of(cert: bytes) -> Identity:
    """The subject of a PEM certificate. Several OUs are joined by a comma and so name no role."""
    from cryptography.x509.oid import NameOID

    certificate = _load(cert)

    def value(oid: "x509.ObjectIdentifier") -> str:
        return ",".join(str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid))

    return Identity(
        common_name=value(NameOID.COMMON_NAME),
        ou=value(NameOID.ORGANIZATIONAL_UNIT_NAME),
        organization=value(NameOID.ORGANIZATION_NAME),
        not_after=certificate.not_valid_after_utc,
        serial=certificate.serial_number,
    )


def write_pair(pair: KeyPair, cert_path: Path, key_path: Path) -> None:
    """Both files, the key first and readable by its owner only; each appears whole or not at all."""
    write_file(key_path, pair.key, mode=0o600)
    write_file(cert_path, pair.cert, mode=0o644)


def write_file(path: Path, content: bytes, *, mode: int) -> None:
    """Replaces `path` atomically; the mode holds from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_pair(cert_path: Path, key_path: Path) -> KeyPair:
    return KeyPair(cert_path.read_bytes(), key_path.read_bytes())


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of one installation, as `write_bundle` lays them out in a directory."""

    directory: Path

    @property
    def ca_cert(self) -> Path:
        return self.directory / "ca-cert.pem"

    @property
    def ca_key(self) -> Path:
        return self.directory / "ca-key.pem"

    def cert(self, name: str) -> Path:
        """`name` is gateway, node, admin-client or viewer-client."""
        return self.directory / f"{name}-cert.pem"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}-key.pem"


GATEWAY, NODE, ADMIN_CLIENT, VIEWER_CLIENT = "gateway", "node", "admin-client", "viewer-client"
CLIENT = "client"  # the name the specification's flags default to; the admin's


def write_bundle(
    directory: Path, *, hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1"), node_id: str = "node-1"
) -> Bundle:
    """Everything one machine needs: CA, gateway, node, admin, viewer, and the admin's again under the default name.

    Creates the directory with mode 0700. Raises InvalidArgument if it holds a CA: replacing it locks everybody out.
    """
    bundle = Bundle(directory)
    if bundle.ca_cert.exists() or bundle.ca_key.exists():
        raise InvalidArgument(f"{directory} already holds a CA", hint="choose another directory, or remove it first")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca = create_ca()
    admin = issue(ca, "admin", Role.ADMIN)
    pairs = {
        GATEWAY: issue(ca, "gateway", Role.GATEWAY, hosts=hosts),
        NODE: issue(ca, node_id, Role.NODE, hosts=hosts),
        ADMIN_CLIENT: admin,
        VIEWER_CLIENT: issue(ca, "viewer", Role.VIEWER),
        CLIENT: admin,
    }
    for name, pair in pairs.items():
        write_pair(pair, bundle.cert(name), bundle.key(name))
    # The CA comes last: its presence says that the bundle is complete.
    write_pair(ca, bundle.ca_cert, bundle.ca_key)
    return bundle


def _new_key() -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _subject(common_name: str, ou: str, organization: str) -> "x509.Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    if not 1 <= len(common_name) <= 64:  # ub-common-name, RFC 5280 A.1
        raise InvalidArgument(f'a common name has 1 to 64 characters, got "{common_name}"', field="common_name")
    parts = [(NameOID.COMMON_NAME, common_name), (NameOID.ORGANIZATIONAL_UNIT_NAME, ou)]
    parts.append((NameOID.ORGANIZATION_NAME, organization))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts if value])


def _builder(
    subject: "x509.Name",
    issuer: "x509.Name",
    key: "EllipticCurvePrivateKey",
    not_before: datetime,
    not_after: datetime,
) -> "x509.CertificateBuilder":
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )


def _key_usage(*, signs_certificates: bool) -> "x509.KeyUsage":
    """A CA signs certificates and revocation lists; everybody else only signs handshakes (TLS 1.3 needs no more)."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _usages(role: str) -> "list[x509.ObjectIdentifier]":
    from cryptography.x509.oid import ExtendedKeyUsageOID

    client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    return [server, client] if role in _SERVER_ROLES else [client]


def _authority(ca: "x509.Certificate") -> "x509.AuthorityKeyIdentifier":
    from cryptography import x509

    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _alternative_names(common_name: str, hosts: Sequence[str]) -> "list[x509.GeneralName]":
    from cryptography import x509

    names: list[x509.GeneralName] = []
    candidates = [common_name, *hosts] if _DNS_NAME.fullmatch(common_name) and not _is_ip(common_name) else [*hosts]
    for host in dict.fromkeys(candidates):
        if _is_ip(host):
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        elif _DNS_NAME.fullmatch(host):
            names.append(x509.DNSName(host))
        else:
            raise InvalidArgument(f'expected a host name or an IP address, got "{host}"', field="hosts")
    return names


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _hosts(certificate: "x509.Certificate") -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _key_type(certificate: "x509.Certificate") -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    key = certificate.public_key()
    return f"ECDSA {key.curve.name}" if isinstance(key, EllipticCurvePublicKey) else type(key).__name__.strip("_")


def _load(cert: bytes) -> "x509.Certificate":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(cert)
    except ValueError as error:
        raise InvalidArgument("not a PEM certificate") from error


def _pair(certificate: "x509.Certificate", key: "EllipticCurvePrivateKey") -> KeyPair:
    from cryptography.hazmat.primitives import serialization

    return KeyPair(
        cert=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
