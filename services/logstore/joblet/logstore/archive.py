"""The archive: a copy of every sealed log in object storage, which outlives the node.

One object per log, named `<job id>/sealed` below the URL, with exactly the bytes of the sealed file; an object appears
as a whole or not at all. Any logstore with the same archive reads every log in it. Credentials come from a file and go
nowhere but into signatures.
"""

import configparser
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from joblet.common.config import LogArchiveConfig
from joblet.common.errors import JobNotFound, StartError, Unavailable
from joblet.logstore.sealed import SealedLog

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

READ_AHEAD = 1 << 20  # bytes asked of the archive at once: a request takes as long as many frames
PART_SIZE = 5 << 20  # bytes of an upload in one request; S3 takes no smaller ones
PARTS_AT_ONCE = 2  # in memory
ERROR_LENGTH = 200  # characters of the other side's text

_CLIENT: "ClientConfig" = {"timeout": "30s", "connect_timeout": "5s"}
_RETRY: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}
_MISSING = (FileNotFoundError, obstore.exceptions.NotFoundError)


class ObjectBytes:
    """A sealed log in the archive, read a stretch at a time. For one reader."""

    def __init__(self, store: "LocalStore | S3Store", key: str) -> None:
        self._store = store
        self._key = key
        self.size = obstore.head(store, key)["size"]
        self._begin = 0
        self._stretch = b""

    def read(self, position: int, count: int) -> bytes:
        count = min(count, self.size - position)
        if not self._begin <= position <= position + count <= self._begin + len(self._stretch):
            length = min(max(count, READ_AHEAD), self.size - position)
            if not length:
                return b""
            try:
                self._stretch = bytes(obstore.get_range(self._store, self._key, start=position, length=length))
            except (BaseError, OSError) as error:
                raise _unreachable(error) from error
            self._begin = position
        skip = position - self._begin
        return self._stretch[skip : skip + count]


class Archive:
    """Raises StartError when it cannot be what the configuration says; does not connect yet."""

    def __init__(self, config: LogArchiveConfig) -> None:
        self.url = config.url
        self._store = _s3(config) if config.url.startswith("s3://") else _directory(config)

    async def put(self, job_id: str, sealed: Path) -> None:
        """Copies a sealed file, over an earlier copy if there is one. Raises Unavailable."""
        try:
            await obstore.put_async(
                self._store, _key(job_id), sealed, chunk_size=PART_SIZE, max_concurrency=PARTS_AT_ONCE
            )
        except (BaseError, OSError) as error:
            raise _unreachable(error) from error

    async def delete(self, job_id: str) -> bool:
        """Whether there was a copy. Raises Unavailable."""
        try:
            await obstore.head_async(self._store, _key(job_id))
            await obstore.delete_async(self._store, _key(job_id))
        except _MISSING:
            return False
        except (BaseError, OSError) as error:
            raise _unreachable(error) from error
        return True

    def open(self, job_id: str) -> SealedLog:
        """Blocks on the network, as reading from it does. Raises JobNotFound and Unavailable."""
        try:
            return SealedLog(ObjectBytes(self._store, _key(job_id)))
        except _MISSING:
            raise JobNotFound(job_id) from None
        except (BaseError, OSError) as error:
            raise _unreachable(error) from error


def _key(job_id: str) -> str:
    return f"{job_id}/sealed"


def _unreachable(error: Exception) -> Unavailable:
    return Unavailable(f"the archive of logs does not answer: {' '.join(str(error).split())[:ERROR_LENGTH]}")


def _directory(config: LogArchiveConfig) -> LocalStore:
    path = Path(config.url.removeprefix("file://"))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return LocalStore(path)
    except (BaseError, OSError) as error:
        raise StartError(f"the archive of logs cannot be used: {path}: {error}") from error


def _s3(config: LogArchiveConfig) -> S3Store:
    bucket, _, prefix = config.url.removeprefix("s3://").partition("/")
    options: S3Config = {"region": config.region}
    if config.endpoint:
        options["endpoint"] = config.endpoint
    if config.credentials_file is not None:
        options |= credentials(config.credentials_file)
    client = _CLIENT | {"allow_http": config.endpoint.startswith("http://")}
    return S3Store(bucket, prefix=prefix or None, config=options, client_options=client, retry_config=_RETRY)


def credentials(path: Path) -> "S3Config":
    """Section [default] of a file as the AWS tools write it. Raises StartError, which never has a value in it."""
    parser = configparser.RawConfigParser()
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise StartError(f"{path} must not be accessible to others", hint=f"chmod 600 {path}")
            parser.read_file(file)
        section = parser["default"]
        found: S3Config = {
            "access_key_id": section["aws_access_key_id"],
            "secret_access_key": section["aws_secret_access_key"],
        }
        if "aws_session_token" in section:
            found["session_token"] = section["aws_session_token"]
        return found
    except KeyError as missing:
        raise StartError(f"{path} has no {missing}") from None
    except (configparser.Error, UnicodeDecodeError):
        raise StartError(f"{path} is not a file of credentials") from None
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from None
