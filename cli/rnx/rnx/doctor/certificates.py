"""The certificates of the configuration: there, readable, the right key, signed by the CA, in time, for this role.

One finding per pair of files, which several services may share. The first thing wrong is told; the others usually
follow from it. `cryptography` is imported inside: on machines without a configuration it is not needed.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from joblet.common.config import Config, TlsFiles
from joblet.common.roles import Role
from rnx.doctor.caller import FILES, Caller, unknown
from rnx.doctor.findings import Finding, failed, ok, warning

if TYPE_CHECKING:
    from cryptography import x509

SERVICES: Final = ("gateway", "executor", "logstore", "runtime")
SOON: Final = timedelta(days=30)

_ROLES: Final = {"gateway": Role.GATEWAY}  # the others are services of a node
_OTHERS_MODE: Final = 0o077


class Gap(Exception):
    """The first thing wrong with a pair of files; `absent` is the one of them that is not there."""

    def __init__(self, found: str, cause: str, absent: Path | None = None) -> None:
        super().__init__(found)
        self.found = found
        self.cause = cause
        self.absent = absent


def of_config(config: Config, now: datetime, caller: Caller) -> Iterator[Finding]:
    """Of every service's section, files that are the same only once."""
    users: dict[TlsFiles, list[str]] = {}
    for service in SERVICES:
        tls = getattr(config, service).tls
        files = TlsFiles(*(Path(os.path.normpath(path)) for path in (tls.ca, tls.cert, tls.key)))
        users.setdefault(files, []).append(service)
    for files, services in users.items():
        yield one(files, services, now, caller)


def one(files: TlsFiles, services: Sequence[str], now: datetime, caller: Caller) -> Finding:
    """`services` use `files`, and all of them have the same role."""
    check = f"certificate of {', '.join(services)}"
    role = _ROLES.get(services[0], Role.NODE)
    try:
        authorities, chain = _certificates(files.ca), _certificates(files.cert)
        _check_key(files, chain[0])
        authority = _check_chain(files, chain, authorities)
        ends = _check_time(files, chain[0], authority, now)
        _check_role(files, chain[0], role)
    except PermissionError as error:
        if caller.cannot_tell(FILES):
            return unknown(check, caller, FILES)
        return failed(check, f"{error.filename}: permission denied", cause="the file is protected", cure=_look(files))
    except Gap as gap:
        cure = _cure(files) if gap.absent is None else _cure_of_absence(gap.absent, files, services)
        return failed(check, gap.found, cause=gap.cause, cure=cure)
    return _careful(check, files, ends, now)


def none_given(check: str = "certificates") -> Finding:
    return ok(check, "not looked at: no configuration (--config-file FILE or --dir DIR)")


def _certificates(path: Path) -> "list[x509.Certificate]":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(_content(path))
    except ValueError as error:
        raise Gap(f"{path} is no certificate", "the file holds no PEM certificate, or a damaged one") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        cause = "the configuration, or its default, names a file that is not there"
        raise Gap(f"{path} does not exist", cause, path) from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise Gap(f"{path} is no file", "the configuration, or its default, names something else", path) from error


def _check_key(files: TlsFiles, certificate: "x509.Certificate") -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(_content(files.key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise Gap(f"{files.key} is no private key", "no PEM key, a damaged one, or one with a password") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise Gap(f"{files.key} does not belong to {files.cert}", "the key is that of another certificate")


def _check_chain(
    files: TlsFiles, chain: "Sequence[x509.Certificate]", authorities: "Sequence[x509.Certificate]"
) -> "x509.Certificate":
    """The certificate of the CA that the chain ends at."""
    last = chain[0]
    for issuer in chain[1:]:
        if _issued(last, issuer):
            last = issuer
    authority = next((authority for authority in authorities if _issued(last, authority)), None)
    if authority is None:
        raise Gap(f"{files.cert} is not signed by {files.ca}", "the files come from different installations")
    return authority


def _issued(certificate: "x509.Certificate", issuer: "x509.Certificate") -> bool:
    """Whether `issuer` is a CA and its key signed `certificate`."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
        return issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        return False


def _check_time(
    files: TlsFiles, certificate: "x509.Certificate", authority: "x509.Certificate", now: datetime
) -> datetime:
    """When the first of both ends."""
    for path, each in ((files.cert, certificate), (files.ca, authority)):
        if each.not_valid_after_utc <= now:
            raise Gap(f"{path} expired at {_time(each.not_valid_after_utc)}", "its time is over")
        if each.not_valid_before_utc > now:
            cause = f"this machine's clock says {_time(now)}: see clock, or the certificate was made elsewhere"
            raise Gap(f"{path} is valid only from {_time(each.not_valid_before_utc)}", cause)
    return min(certificate.not_valid_after_utc, authority.not_valid_after_utc)


def _check_role(files: TlsFiles, certificate: "x509.Certificate", role: Role) -> None:
    from cryptography.x509.oid import NameOID

    found = [str(item.value) for item in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    if found != [role.value]:
        raise Gap(
            f"{files.cert} has OU={','.join(found) or '(none)'}, not {role.value}",
            "the other services refuse a certificate of another role",
        )


def _careful(check: str, files: TlsFiles, ends: datetime, now: datetime) -> Finding:
    """What is right today."""
    found = f"{files.cert}: valid until {_time(ends)}, signed by {files.ca}"
    mode = files.key.stat().st_mode
    if ends - now < SOON:
        days = (ends - now).days
        return warning(check, found, cause=f"it ends in {days} days", cure=_cure(files))
    if mode & _OTHERS_MODE:
        cause = f"{files.key} can be read by others (mode {mode & 0o777:04o})"
        return warning(check, found, cause=cause, cure=f"`chmod 0600 {files.key}`")
    return ok(check, found)


def _cure(files: TlsFiles) -> str:
    directory = files.cert.parent
    return (
        f"`rnx certs show {files.cert}` shows what is there; `rnx local up` renews its own, otherwise"
        f" `rnx certs init --dir NEW` makes a new set, to be copied to {directory} on every machine"
    )


def _cure_of_absence(path: Path, files: TlsFiles, services: Sequence[str]) -> str:
    keys = ", ".join(f"{service}.tls" for service in services)
    return (
        f"name the right file in the configuration ({keys}), or put {path.name} there: `rnx certs init --dir NEW` makes"
        f" a new set, to be copied to {files.cert.parent} on every machine; that of an `rnx local` it makes itself when"
        " it is started"
    )


def _look(files: TlsFiles) -> str:
    return f"`ls -l {files.cert} {files.key} {files.ca}`; they belong to root, keys with mode 0600"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
