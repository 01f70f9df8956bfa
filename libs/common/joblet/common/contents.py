"""Files stored by what is in them: one directory, each file named by the SHA-256 of its bytes.

The gateway keeps uploads here until their jobs need them no longer, an executor those that its jobs are about to get.
A file appears by rename once all of it is there and its digest is right; what a crash leaves is a `.tmp` that the next
start removes. Contents are never changed, so the same bytes stored twice are one file. `receive` speaks the protocol of
Upload: the first chunk names the digest; a content that is there already is answered at once, whatever follows; a
stream without payload therefore asks whether it is there.

Sizes are bytes, ages seconds. Files are written by threads, everything else happens in the event loop.
"""

import asyncio
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from joblet.common.errors import InvalidArgument, NotFound, ResourceExhausted
from joblet.common.units import MIB

CHUNK_BYTES: Final = 256 * 1024
EMPTY_DIGEST: Final = f"sha256:{hashlib.sha256().hexdigest()}"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_TEMPORARY: Final = ".tmp"


class TooLarge(ResourceExhausted):
    """One content that will never fit."""


class Chunk(Protocol):
    """A message of Upload."""

    @property
    def payload(self) -> bytes: ...

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one content and all together may take, and how long one stays that nobody uses; `what` names the first two
    to users."""

    one_bytes: int
    total_bytes: int
    age_seconds: float
    what: tuple[str, str]


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


class Contents:
    """The open directory; made if it is not there."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self._directory = directory
        self._limits = limits
        self._incoming_bytes = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in directory.glob(f"*{_TEMPORARY}"):
            left.unlink()
        self._stored_bytes = sum(entry.stat().st_size for entry in os.scandir(directory))

    @property
    def stored_bytes(self) -> int:
        return self._stored_bytes

    def size_of(self, digest: str) -> int | None:
        """None when it is not there. Being asked for makes it young again."""
        path = self._path(digest)
        try:
            os.utime(path)
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def open(self, digest: str) -> BinaryIO:
        """For reading; stays readable when it is removed. Raises NotFound."""
        try:
            return self._path(digest).open("rb")
        except FileNotFoundError:
            raise NotFound(f"no content {digest} is stored here") from None

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        """In pieces of 256 KiB. Raises NotFound."""
        with self.open(digest) as file:
            while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield piece

    async def receive(self, chunks: AsyncIterator[Chunk]) -> tuple[str, int]:
        """Stores what comes; its digest and size. Raises InvalidArgument, ResourceExhausted, and NotFound for a stream
        that has a digest and nothing else."""
        first = await anext(aiter(chunks), None)
        if first is None or not is_digest(first.digest):
            raise InvalidArgument(
                'invalid digest: the first chunk needs "sha256:" and 64 hexadecimal digits', field="digest"
            )
        digest = first.digest
        known = self.size_of(digest)
        if known is not None:
            return digest, known
        with self._arriving() as arriving:
            await arriving.add(first.payload)
            async for chunk in chunks:
                await arriving.add(chunk.payload)
            self._keep(arriving, digest)
            return digest, arriving.size

    def old(self) -> list[str]:
        """Digests of what nobody has asked for as long as the limit says."""
        limit = time.time() - self._limits.age_seconds
        return [
            f"sha256:{entry.name}"
            for entry in os.scandir(self._directory)
            if not entry.name.endswith(_TEMPORARY) and entry.stat().st_mtime < limit
        ]

    def remove(self, digest: str) -> None:
        """Whoever has it open keeps it."""
        path = self._path(digest)
        self._stored_bytes -= path.stat().st_size
        path.unlink()

    @contextmanager
    def _arriving(self) -> Iterator["_Arriving"]:
        with tempfile.NamedTemporaryFile(dir=self._directory, suffix=_TEMPORARY, delete=False) as file:
            arriving = _Arriving(self, file)
            try:
                yield arriving
            finally:
                self._incoming_bytes -= arriving.size
                Path(file.name).unlink(missing_ok=True)

    def _keep(self, arriving: "_Arriving", digest: str) -> None:
        if arriving.size == 0 and digest != EMPTY_DIGEST:
            raise NotFound(f"no content {digest} is stored here")
        if arriving.digest != digest:
            raise InvalidArgument(
                f"invalid digest: what arrived is {arriving.digest}, not {digest}", field="digest",
                hint="perhaps a file was changed while it was being sent",
            )  # fmt: skip
        path = self._path(digest)
        if not path.exists():  # else somebody sent the same meanwhile
            self._stored_bytes += arriving.size
        Path(arriving.flushed()).replace(path)

    def claim(self, size: int, arrived: int) -> None:
        """Room for `size` more bytes of a content that has `arrived`. Raises ResourceExhausted naming the limit."""
        one, total = self._limits.what
        if arrived + size > self._limits.one_bytes:
            raise TooLarge(f"content is larger than {self._limits.one_bytes // MIB} MB ({one})")
        if self._stored_bytes + self._incoming_bytes + size > self._limits.total_bytes:
            raise ResourceExhausted(
                f"no room for another content: all together may have {self._limits.total_bytes // MIB} MB ({total})",
                hint=f"those that no job needs are removed after {self._limits.age_seconds:g} s",
            )
        self._incoming_bytes += size

    def _path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise InvalidArgument(f"not a digest: {digest[:80]!r}", field="digest")
        return self._directory / digest.removeprefix("sha256:")


class _Arriving:
    """One content on its way."""

    def __init__(self, contents: Contents, file: "tempfile._TemporaryFileWrapper[bytes]") -> None:
        self._contents = contents
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"

    async def add(self, piece: bytes) -> None:
        if len(piece) > CHUNK_BYTES:
            raise InvalidArgument(f"a chunk has {len(piece)} bytes, more than {CHUNK_BYTES}", field="payload")
        if piece:
            self._contents.claim(len(piece), self.size)
            self.size += len(piece)
            await asyncio.to_thread(self._write, piece)

    def flushed(self) -> str:
        """Its name, with everything in it."""
        self._file.flush()
        return self._file.name

    def _write(self, piece: bytes) -> None:
        self._sha256.update(piece)
        try:
            self._file.write(piece)
        except OSError as error:
            raise ResourceExhausted(f"content cannot be stored: {(error.strerror or str(error)).lower()}") from error
