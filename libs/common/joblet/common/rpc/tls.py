"""Server credentials whose files may be replaced while the server runs.

grpc asks for the certificates at every handshake. They are read again when a file has changed and used only if they fit
together; a half-written or broken file is logged once and the certificates in use stay.

grpcio (1.85) has no hook for a handshake that fails: the library writes "Handshake failed with error ..." to stderr,
at its default verbosity, and closes the connection; no Python code sees it. What can be counted is handshakes begun
(here) and connections that made a call (`joblet.common.rpc.guard`): the difference were refused or never used.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
from prometheus_client import Counter

from joblet.common import log
from joblet.common.config import TlsFiles
from joblet.common.errors import FailedPrecondition, StartError

T = TypeVar("T")

_log = log.get_logger(__name__)

_HANDSHAKES = Counter("joblet_tls_handshakes", "TLS handshakes begun by clients of this service.", ["service"])
_RELOADS = Counter("joblet_tls_reloads", "Changes of the certificate files seen, by outcome.", ["service", "outcome"])

_Signature = tuple[tuple[int, int, int], ...]


class ServerCertificates:
    """The certificates of one server as they are on disk now."""

    def __init__(self, service: str, files: TlsFiles) -> None:
        """Raises StartError if the files are missing, unreadable or do not fit together."""
        self._service = service
        self._files = files
        self._handshakes = _HANDSHAKES.labels(service)
        try:
            self._seen = _signature(files)
            self._initial = _load(files)
        except (OSError, ValueError) as error:
            raise StartError(f"cannot use the certificates of {service}: {_reason(error)}") from error

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that require a certificate of our CA from every client."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._fetch,  # type: ignore[arg-type]  # None, for "no change", is allowed but not in the stubs
            require_client_authentication=True,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by grpc's threads before each handshake. Never raises: that would refuse the client."""
        self._handshakes.inc()
        try:
            signature = _signature(self._files)
            if signature == self._seen:
                return None
            # Noted before loading: a broken set is reported once, not at every handshake.
            self._seen = signature
            changed = _load(self._files)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the new files, the old certificates go on
            _RELOADS.labels(self._service, "failed").inc()
            _log.error("certificates not reloaded, the previous ones stay in use", reason=_reason(error))
            return None
        _RELOADS.labels(self._service, "ok").inc()
        _log.info("certificates reloaded", cert=self._files.cert)
        return changed


def client_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Raises FailedPrecondition naming the file that cannot be read."""
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=files.ca.read_bytes(),
            private_key=files.key.read_bytes(),
            certificate_chain=files.cert.read_bytes(),
        )
    except OSError as error:
        raise FailedPrecondition(f"cannot read {_reason(error)}") from error


def _signature(files: TlsFiles) -> _Signature:
    return tuple(_version(path) for path in (files.ca, files.cert, files.key))


def _version(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _load(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Raises OSError or ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    ca, _ = _parsed(files.ca, x509.load_pem_x509_certificates)
    cert, certificate = _parsed(files.cert, x509.load_pem_x509_certificate)
    key, private_key = _parsed(files.key, lambda pem: serialization.load_pem_private_key(pem, password=None))
    public_key = certificate.public_key()
    if private_key.public_key() != public_key:
        raise ValueError(f"{files.key} is not the key of {files.cert}")
    if not isinstance(public_key, EllipticCurvePublicKey):
        # With RSA the cipher suites left for TLS 1.2 would work (see joblet.common).
        raise ValueError(f"{files.cert} is not an ECDSA certificate")
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)


def _parsed(path: Path, parse: Callable[[bytes], T]) -> tuple[bytes, T]:
    pem = path.read_bytes()
    try:
        return pem, parse(pem)
    except (ValueError, TypeError) as error:  # TypeError: a key that needs a password
        raise ValueError(f"{path} holds no usable PEM: {error}") from error


def _reason(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
