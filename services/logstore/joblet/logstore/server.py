"""The logstore's whole life: what it serves, who may ask, start and stop.

It keeps nothing that is not on disk: killed at any moment and started again it answers as before, and whoever was
reading goes on from the next offset.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

from joblet.api.internal.logstore_pb2 import DESCRIPTOR
from joblet.common import metrics
from joblet.common.config import Config
from joblet.common.log import get_logger
from joblet.common.roles import Role
from joblet.common.rpc import Access, AccessTable, RpcServer
from joblet.logstore.archive import Archive
from joblet.logstore.handout import Handout
from joblet.logstore.hole import require_holes
from joblet.logstore.inotify import Inotify
from joblet.logstore.keeping import Keeper
from joblet.logstore.layout import LogDirectory
from joblet.logstore.readers import RETURN_SECONDS, Readers
from joblet.logstore.reading import LogStore
from joblet.logstore.tickets import Tickets

SERVICE = DESCRIPTOR.services_by_name["LogStoreService"]
ACCESS: AccessTable = {
    f"/{SERVICE.full_name}/ReadLogs": Access("read_logs", frozenset({Role.GATEWAY})),
    f"/{SERVICE.full_name}/FindBeginning": Access("find_beginning", frozenset({Role.GATEWAY})),
    f"/{SERVICE.full_name}/DeleteLogs": Access("delete_logs", frozenset({Role.GATEWAY})),
}
ARCHIVE_THREADS = 16  # readers that the archive makes wait do not make others wait
GRACE_SECONDS = 2.0  # for readers that take their last message slowly; the others are gone at once

log = get_logger(__name__)


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Raises StartError when an address, a socket or a certificate cannot be used."""
    own = config.logstore
    ready = False
    with ExitStack() as stack:
        logs = stack.enter_context(closing(LogDirectory(own.directory)))
        disk = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="disk"))
        archive = Archive(own.archive) if own.archive.url else None
        archive_threads = stack.enter_context(ThreadPoolExecutor(ARCHIVE_THREADS, thread_name_prefix="archive"))
        if own.retention.max_job_size_mb:
            require_holes(own.directory)
        readers = Readers(min(own.retention.reader_hold_seconds, RETURN_SECONDS))
        keeper = stack.enter_context(closing(Keeper(logs, readers, disk, own, archive)))
        tickets = stack.enter_context(closing(Tickets()))
        handout = stack.enter_context(closing(Handout(own.socket, logs, keeper.opened, tickets)))
        for job_id in logs.sweep():
            log.warn("removed an incomplete log", jobId=job_id)
        logs.spares.sweep()
        inotify = stack.enter_context(closing(Inotify()))
        probes = metrics.start_http(own.metrics_listen, metrics.REGISTRY, lambda: None if ready else "not serving")
        stack.callback(probes.stop)
        rpc = RpcServer("logstore", own.listen, own.tls, config.grpc, ACCESS, internal=True)
        logstore = LogStore(
            logs, inotify, keeper, readers, tickets, archive, archive_threads, own.reader_timeout_seconds
        )
        rpc.add_generic(SERVICE, logstore.handlers())
        port = await rpc.start()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(handout.serve()), group.create_task(keeper.run())]
            ready = True
            log.info("listening", address=f"{own.listen.rpartition(':')[0]}:{port}", metricsPort=probes.port)
            await stop.wait()
            ready = False
            inotify.stop()
            await rpc.stop(GRACE_SECONDS)
            for task in tasks:
                task.cancel()
    log.info("stopped")
