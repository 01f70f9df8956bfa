"""Secrets that wait: unreadable without the key, and bound to their job."""

from pathlib import Path

import pytest

from joblet.common.errors import FailedPrecondition, StartError
from joblet.gateway.vault import Vault


def test_what_is_sealed_comes_back_with_the_same_key_only(tmp_path: Path) -> None:
    sealed = Vault(tmp_path / "state/key").seal("job", {"TOKEN": "hunter2", "É": "ü\n"})
    assert b"hunter2" not in sealed
    assert Vault(tmp_path / "state/key").open("job", sealed) == {"TOKEN": "hunter2", "É": "ü\n"}
    with pytest.raises(FailedPrecondition, match="the secrets of job job cannot be decrypted"):
        Vault(tmp_path / "other").open("job", sealed)


def test_no_secrets_are_nothing(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "key")
    assert vault.seal("job", {}) == b""
    assert vault.open("job", b"") == {}


def test_another_jobs_or_damaged_secrets(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "key")
    sealed = vault.seal("job", {"A": "b"})
    with pytest.raises(FailedPrecondition):
        vault.open("other", sealed)
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        with pytest.raises(FailedPrecondition):
            vault.open("job", bytes(damaged))
        with pytest.raises(FailedPrecondition):
            vault.open("job", sealed[: position or 1])


def test_equal_secrets_look_different(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "key")
    assert vault.seal("job", {"A": "b"}) != vault.seal("job", {"A": "b"})


def test_only_the_owner_may_read_the_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    Vault(key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    key.chmod(0o640)
    with pytest.raises(StartError, match="may be read by others") as caught:
        Vault(key)
    assert caught.value.hint == f"chmod 600 {key}"


def test_a_key_that_is_none(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"short")
    key.chmod(0o600)
    with pytest.raises(StartError, match="is not a key of 32 bytes"):
        Vault(key)
    with pytest.raises(StartError, match="the key of stored secrets cannot be used"):
        Vault(Path("/proc/joblet/key"))
