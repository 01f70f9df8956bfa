"""Secrets of jobs that their node does not have yet, encrypted for the store.

A job may wait for hours and the gateway may be restarted meanwhile, so its secrets have to be in the store; they are
there as AES-256-GCM only, bound to the job's id, and are deleted as soon as the node has the job. The key is a file of
its own, made at the first start with mode 0600: whoever has the database alone, or a backup of it, has no secret.
Gateways that share a store share the key.

A sealed value is one version byte (1), 12 bytes of nonce, and the ciphertext with its tag of the JSON object of names
and values.
"""

import json
import os
import secrets as random
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from joblet.common.errors import FailedPrecondition, StartError

VERSION = b"\x01"
NONCE_BYTES = 12
KEY_BYTES = 32


class Vault:
    """Raises StartError when there is no key and none can be made, or when others could read it."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._cipher = AESGCM(_key(key_file))

    def seal(self, job_id: str, secrets: Mapping[str, str]) -> bytes:
        """Nothing for no secrets."""
        if not secrets:
            return b""
        nonce = random.token_bytes(NONCE_BYTES)
        return VERSION + nonce + self._cipher.encrypt(nonce, json.dumps(dict(secrets)).encode(), job_id.encode())

    def open(self, job_id: str, sealed: bytes) -> dict[str, str]:
        """Raises FailedPrecondition for what was not sealed for this job with this key."""
        if not sealed:
            return {}
        nonce, text = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            if sealed[:1] != VERSION:
                raise InvalidTag
            opened: dict[str, str] = json.loads(self._cipher.decrypt(nonce, text, job_id.encode()))
        except (InvalidTag, ValueError) as error:
            raise FailedPrecondition(
                f"the secrets of job {job_id} cannot be decrypted with {self._key_file}: submit it again"
            ) from error
        return opened


def _key(file: Path) -> bytes:
    try:
        if not file.exists():
            _make(file)
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            key = opened.read(KEY_BYTES + 1)
    except OSError as error:
        raise StartError(f"the key of stored secrets cannot be used: {error}", hint="see gateway.secretsKey") from error
    if mode & 0o077:
        raise StartError(f"{file} may be read by others (mode {mode:04o})", hint=f"chmod 600 {file}")
    if len(key) != KEY_BYTES:
        raise StartError(f"{file} is not a key of {KEY_BYTES} bytes", hint="move it away and a new one is made")
    return key


def _make(file: Path) -> None:
    """Whole or not at all; of two gateways that start at once, the first one's key counts for both."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(random.token_bytes(KEY_BYTES))
        opened.flush()
        os.fsync(opened.fileno())
    try:
        os.link(new, file)
    except FileExistsError:
        return
    finally:
        new.unlink()
