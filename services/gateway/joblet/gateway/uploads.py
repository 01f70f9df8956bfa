"""Uploads larger than a message: received by JobService.Upload, named by digest in RunJob, brought to the node.

They lie in one directory of the gateway, by content (`joblet.common.contents`). A job that has not ended needs its own:
it may be handed to its node again. The others go when nobody has asked for them for `uploadAge`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

from joblet.api import job_pb2
from joblet.common import log, tree
from joblet.common.config import GatewayConfig
from joblet.common.contents import Contents, Limits
from joblet.common.errors import FailedPrecondition, InvalidArgument, JobletError, NotFound
from joblet.common.units import MIB
from joblet.gateway.link import Link
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.model import Upload

SWEEP_SECONDS: Final = 30.0
DEFAULT_DIRECTORY: Final = Path("/var/lib/joblet/gateway/uploads")  # of a gateway whose store is no file

_log = log.get_logger(__name__)


def directory_of(config: GatewayConfig) -> Path:
    """The configured one, or the one beside the database."""
    if config.upload_directory is not None:
        return config.upload_directory
    kind, _, file = config.database.partition(":///")
    return Path(file.partition("?")[0]).parent / "uploads" if kind.startswith("sqlite") else DEFAULT_DIRECTORY


class Uploads:
    def __init__(self, config: GatewayConfig, database: Database) -> None:
        self._database = database
        limits = Limits(
            config.upload_max_mb * MIB, config.upload_total_mb * MIB, config.upload_age_seconds,
            ("gateway.uploadMaxMb", "gateway.uploadTotalMb"),
        )  # fmt: skip
        self._contents = Contents(directory_of(config), limits)
        self._sweep_seconds = min(SWEEP_SECONDS, config.upload_age_seconds)

    async def run(self) -> None:
        """Until cancelled: removes what nobody needs."""
        while True:
            await asyncio.sleep(self._sweep_seconds)
            old = self._contents.old()
            if not old:
                continue
            try:
                wanted = await self._database.read(job_queries.wanted_digests)
            except JobletError as error:
                _log.error("old uploads cannot be removed", error=error.message)
                continue
            for digest in set(old) - wanted:
                self._contents.remove(digest)
                _log.info("old upload removed", digest=digest)

    async def receive(self, chunks: AsyncIterator[job_pb2.UploadChunk]) -> job_pb2.UploadRes:
        digest, size = await self._contents.receive(chunks)
        return job_pb2.UploadRes(digest=digest, size=size)

    async def check(self, uploads: Iterable[Upload]) -> None:
        """That every content named is here, of the size named, and that trees are safe. Raises FailedPrecondition,
        InvalidArgument."""
        for upload in uploads:
            if not upload.digest:
                continue
            size = self._contents.size_of(upload.digest)
            path = tree.quoted(upload.path.encode())
            if size is None:
                raise FailedPrecondition(
                    f"uploads: {path}: its content {upload.digest} has not been uploaded",
                    field="uploads", hint="send it with Upload first",
                )  # fmt: skip
            if upload.size != size:
                raise InvalidArgument(
                    f"invalid uploads: {path}: size {upload.size} is not that of its content, {size}", field="uploads"
                )
            if upload.is_directory:
                await asyncio.to_thread(self._check_tree, upload.digest)

    def _check_tree(self, digest: str) -> None:
        with self._contents.open(digest) as archive:
            tree.check(archive)

    async def bring(self, link: Link, uploads: Iterable[Upload]) -> None:
        """Returns when the node has every content. Raises what it answers, NotFound for one that is gone here."""
        for digest in {upload.digest: None for upload in uploads if upload.digest}:
            if not await self._is_there(link, digest):
                with link.errors():
                    await link.executor.PutContent(self._chunks(digest))

    async def _is_there(self, link: Link, digest: str) -> bool:
        async def question() -> AsyncIterator[job_pb2.UploadChunk]:
            yield job_pb2.UploadChunk(digest=digest)

        try:
            with link.errors():
                await link.executor.PutContent(question())
        except NotFound:
            return False
        return True

    async def _chunks(self, digest: str) -> AsyncIterator[job_pb2.UploadChunk]:
        yield job_pb2.UploadChunk(digest=digest)
        async for piece in self._contents.read(digest):
            yield job_pb2.UploadChunk(payload=piece)
