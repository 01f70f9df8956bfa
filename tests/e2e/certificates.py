"""Client certificates for tests, signed by a system's own CA or by one nobody knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from joblet.common import pki
from joblet.common.pki import Bundle, KeyPair


def authority(certificates: Path) -> KeyPair:
    """The CA of a system, from its certificate directory."""
    bundle = Bundle(certificates)
    return pki.read_pair(bundle.ca_cert, bundle.ca_key)


def client(ca: KeyPair, role: str, *, days: float = 1) -> KeyPair:
    """A client certificate with OU `role`, valid since two days ago and for `days` more (negative: expired)."""
    now = datetime.now(UTC)
    return pki.issue(ca, "jbtest", role, not_before=now - timedelta(days=2), not_after=now + timedelta(days=days))


def stranger() -> KeyPair:
    """A CA that no system trusts."""
    return pki.create_ca("jbtest other CA")


def save(pair: KeyPair, directory: Path, name: str) -> Path:
    """Write the pair as `name`-cert.pem and `name`-key.pem; the path without those endings."""
    pki.write_pair(pair, directory / f"{name}-cert.pem", directory / f"{name}-key.pem")
    return directory / name
