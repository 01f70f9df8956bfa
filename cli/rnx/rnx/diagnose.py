"""Why there is no connection, in words that name the file or the machine to mend.

grpc says UNAVAILABLE to a failed handshake, whatever failed. So rnx looks itself: is somebody listening, are its own
certificate and key in order, and what does a handshake with Python's `ssl` say? With TLS 1.3 the client is done before
the server has looked at its certificate: a refusal arrives as an alert at the first read (RFC 8446, 4.4.2.4, 6.2).
Only used once a connection has failed: `ssl` and `cryptography` are imported here and cost about 80 ms.
"""

import contextlib
import errno
import os
import socket
import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from joblet.common.errors import JobletError
from rnx.credentials import NO_CERTIFICATE, Credentials
from rnx.errors import BadCertificate, CannotConnect
from rnx.settings import Settings

PROBE_SECONDS = 5.0
VERIFY_FAILED = "certificate verify failed"

# Verification errors of OpenSSL (openssl-verification-options(1), x509_vfy.h)
_EXPIRED = 10
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21, 7})

# Alerts a server may answer the client's certificate with, as OpenSSL names them in SSLError.reason
_ALERT_EXPIRED = "CERTIFICATE_EXPIRED"
_ALERT_REQUIRED = "CERTIFICATE_REQUIRED"
_ALERTS_OF_CERTIFICATES = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "UNSUPPORTED_CERTIFICATE",
                           "CERTIFICATE_REVOKED", "DECRYPT_ERROR", "ACCESS_DENIED")  # fmt: skip
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG",
            "INVALID_SESSION_ID", "UNEXPECTED_MESSAGE", "UNKNOWN_PROTOCOL")  # fmt: skip
_VERSION = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "HANDSHAKE_FAILURE")


def why_no_connection(settings: Settings, credentials: Credentials) -> JobletError:
    """The reason, as an error to raise; looks at the network, then at our files, then at the handshake."""
    host, _, port = settings.address.rpartition(":")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS)
    except OSError as error:
        return _unreachable(settings, error)
    with connection:
        return (
            own_files(settings, credentials)
            or _handshake(settings, credentials, connection, host.strip("[]"))
            or CannotConnect(
                f"cannot reach {settings.address}: it answers, but no connection came about",
                hint="try again; the server may have been starting",
            )
        )


def _unreachable(settings: Settings, error: OSError) -> CannotConnect:
    where = f"the address is {settings.address_origin}"
    if isinstance(error, socket.gaierror):
        return CannotConnect(f"cannot reach {settings.address}: unknown host name", hint=where)
    if isinstance(error, TimeoutError):
        return CannotConnect(
            f"cannot reach {settings.address}: no answer within {PROBE_SECONDS:g} s",
            hint=f"is there a firewall in between? ({where})",
        )
    if error.errno == errno.ECONNREFUSED:
        return CannotConnect(
            f"cannot reach {settings.address}: connection refused", hint=f"is a server running there? ({where})"
        )
    return CannotConnect(f"cannot reach {settings.address}: {_words(error)}", hint=where)


def own_files(settings: Settings, credentials: Credentials) -> BadCertificate | None:
    """What is wrong with the client's certificate, key and CA as such, if anything."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    cert, key, ca = settings.cert, settings.key, settings.ca
    try:
        certificate = x509.load_pem_x509_certificate(credentials.cert)
    except ValueError:
        return BadCertificate(f"{VERIFY_FAILED}: no certificate in {cert}", hint=f"it is {cert.origin}")
    try:
        x509.load_pem_x509_certificates(credentials.ca)
    except ValueError:
        return BadCertificate(f"{VERIFY_FAILED}: no CA certificate in {ca}", hint=f"it is {ca.origin}")
    try:
        private = serialization.load_pem_private_key(credentials.key, password=None)
    except TypeError:
        return BadCertificate(
            f"{VERIFY_FAILED}: the private key in {key} has a password", hint="rnx takes keys without one"
        )
    except ValueError:
        return BadCertificate(f"{VERIFY_FAILED}: no private key in {key}", hint=f"it is {key.origin}")
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        return BadCertificate(
            f"{VERIFY_FAILED}: certificate has expired",
            hint=f"{cert} ended at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}; see rnx certs issue",
        )
    if certificate.not_valid_before_utc > now:
        return BadCertificate(
            f"{VERIFY_FAILED}: certificate is not yet valid",
            hint=f"{cert} is valid from {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}; is the clock right?",
        )
    public = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if certificate.public_key().public_bytes(*public) != private.public_key().public_bytes(*public):
        return BadCertificate(
            f"{VERIFY_FAILED}: the private key does not belong to the certificate",
            hint=f"{cert} and {key} do not match",
        )
    return None


def _handshake(
    settings: Settings, credentials: Credentials, connection: socket.socket, host: str
) -> JobletError | None:
    """What a TLS handshake and the first read say; None if the server is content with us."""
    try:
        context = _context(credentials)
        with context.wrap_socket(connection, server_hostname=host) as secure:
            answer = secure.recv(1)  # HTTP/2 servers send SETTINGS first (RFC 9113, 3.4), a refusal is an alert
    except ssl.SSLCertVerificationError as error:
        return _server_certificate(settings, error)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return _closed(settings, credentials, "connection closed by the server")
    except ssl.SSLError as error:
        return _alert(settings, credentials, error.reason or "")
    except TimeoutError:
        return CannotConnect(
            f"cannot reach {settings.address}: it accepts connections but does not answer",
            hint=f"no TLS handshake within {PROBE_SECONDS:g} s; is it the right port?",
        )
    except OSError as error:
        return _closed(settings, credentials, _words(error))
    return None if answer else _closed(settings, credentials, "connection closed by the server")


def _context(credentials: Credentials) -> ssl.SSLContext:
    """A client's context as grpc has it. `ssl` loads certificate and key from files only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=credentials.ca.decode(errors="replace"))
    with tempfile.TemporaryDirectory(prefix="rnx-") as directory:  # mode 0700
        chain = Path(directory) / "client.pem"
        chain.write_bytes(credentials.key + b"\n" + credentials.cert)
        context.load_cert_chain(chain)
    return context


def _server_certificate(settings: Settings, error: ssl.SSLCertVerificationError) -> BadCertificate:
    if error.verify_code == _EXPIRED:
        return BadCertificate(
            f"{VERIFY_FAILED}: certificate has expired", hint=f"it is the server's certificate at {settings.address}"
        )
    if error.verify_code in _UNKNOWN_ISSUER:
        return BadCertificate(
            f"{VERIFY_FAILED}: the certificate of {settings.address} was not issued by our CA",
            hint=f"the CA is {settings.ca} ({settings.ca.origin})",
        )
    message = error.verify_message or str(error)
    return BadCertificate(
        f"{VERIFY_FAILED}: {_uncapitalized(message).rstrip('.')}",
        hint=f"it is the server's certificate at {settings.address}; call it by a name that the certificate has",
    )


def _alert(settings: Settings, credentials: Credentials, reason: str) -> JobletError:
    if reason.endswith(_ALERT_EXPIRED):
        return BadCertificate(
            f"{VERIFY_FAILED}: certificate has expired",
            hint=f"the server at {settings.address} says so of {settings.cert}; is the clock right?",
        )
    if reason.endswith(_ALERT_REQUIRED):
        return BadCertificate(NO_CERTIFICATE, hint=f"the server at {settings.address} got no certificate from us")
    if reason.endswith(_ALERTS_OF_CERTIFICATES):
        return _refused_by_server(settings, credentials, _readable(reason))
    if reason.endswith(_VERSION):
        return CannotConnect(
            f"cannot reach {settings.address}: no TLS version or cipher in common",
            hint="Joblet speaks TLS 1.3; is it Joblet's port?",
        )
    if reason.endswith(_NOT_TLS):
        return CannotConnect(
            f"cannot reach {settings.address}: it does not speak TLS",
            hint="is it the right port? metrics are plain HTTP",
        )
    return CannotConnect(f"cannot reach {settings.address}: TLS handshake failed: {_readable(reason)}")


def _closed(settings: Settings, credentials: Credentials, why: str) -> JobletError:
    """Closed without an alert: our certificate is the likely reason if another CA issued it."""
    if not _issued_by_our_ca(credentials):
        return _refused_by_server(settings, credentials, why)
    return CannotConnect(
        f"cannot reach {settings.address}: {why}", hint="is it Joblet's port? is a server starting there?"
    )


def _refused_by_server(settings: Settings, credentials: Credentials, said: str) -> BadCertificate:
    from joblet.common.pki import describe

    if not _issued_by_our_ca(credentials):
        return BadCertificate(
            f"{VERIFY_FAILED}: the client certificate was not issued by the server's CA",
            hint=f"{settings.cert} was issued by {describe(credentials.cert).issuer}, not by the CA in {settings.ca}",
        )
    return BadCertificate(
        f"{VERIFY_FAILED}: the server at {settings.address} refused the client certificate ({said})",
        hint=f"it is {settings.cert} ({settings.cert.origin})",
    )


def _issued_by_our_ca(credentials: Credentials) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    certificate = x509.load_pem_x509_certificate(credentials.cert)
    for ca in x509.load_pem_x509_certificates(credentials.ca):
        with contextlib.suppress(InvalidSignature, ValueError, TypeError):
            certificate.verify_directly_issued_by(ca)
            return True
    return False


def _readable(reason: str) -> str:
    words = reason.removeprefix("TLSV1_ALERT_").removeprefix("SSLV3_ALERT_").removeprefix("TLSV13_ALERT_")
    return words.lower().replace("_", " ") or "no reason given"


def _words(error: OSError) -> str:
    return _uncapitalized(os.strerror(error.errno) if error.errno else str(error))


def _uncapitalized(text: str) -> str:
    """ "Connection refused" -> "connection refused", but "IP address" stays."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
