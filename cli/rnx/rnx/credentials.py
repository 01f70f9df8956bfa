"""The client's three PEMs as bytes, read just before a connection is made.

A client without a certificate cannot be told so by the server (the handshake fails first), so a missing one is refused
here with the text the specification has for it. Whether certificate, key and CA fit is `diagnose`'s business.
"""

from dataclasses import dataclass

from rnx.errors import BadCertificate
from rnx.settings import CONFIG_NAME, Pem, Settings

NO_CERTIFICATE = "failed to extract client role: no TLS information found"


@dataclass(frozen=True, slots=True)
class Credentials:
    cert: bytes
    key: bytes
    ca: bytes


def read(settings: Settings) -> Credentials:
    """Raises BadCertificate naming the file that is missing or unreadable, and who named it."""
    return Credentials(
        cert=_read(settings.cert, NO_CERTIFICATE, "client certificate", "--cert or JOBLET_CERT_PATH"),
        key=_read(settings.key, NO_CERTIFICATE, "private key of the client certificate", "--key or JOBLET_KEY_PATH"),
        ca=_read(
            settings.ca,
            f"certificate verify failed: no CA certificate to check {settings.address} with",
            "CA certificate",
            "--ca or JOBLET_CA_PATH",
        ),
    )


def _read(pem: Pem, message: str, what: str, remedy: str) -> bytes:
    if pem.path is None:
        return (pem.text or "").encode()
    try:
        content = pem.path.read_bytes()
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        hint = f"{what}: {pem.path} ({pem.origin}) {why}; name one with {remedy}, or all three in {CONFIG_NAME}"
        raise BadCertificate(message, hint=hint) from error
    if b"-----BEGIN " not in content:
        hint = f"{what}: {pem.path} ({pem.origin}) holds no PEM"
        raise BadCertificate(message, hint=hint)
    return content
