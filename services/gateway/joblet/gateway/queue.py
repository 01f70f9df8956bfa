"""The queue at work: whenever there may be room on a node, its next jobs are placed and handed to it.

The queue itself is in the store (`store.queue`), its rules are in `placement`. Nothing here is asked at intervals: the
ends of jobs (if others wait then: `store.events.Applied.crowd`), nodes that connect or grow, jobs that leave the queue
and jobs whose time has come all set `Changes.room`.
What was decided but not handed over when the gateway was killed is found when the node connects (`reconcile`).
"""

import asyncio
import time
from collections.abc import Iterable

from joblet.common import log
from joblet.common.config import JobletConfig
from joblet.common.errors import JobletError
from joblet.common.units import NS_PER_SECOND
from joblet.gateway import placement
from joblet.gateway.changes import Changes
from joblet.gateway.launch import Launches
from joblet.gateway.link import Link
from joblet.gateway.metrics import Metrics
from joblet.gateway.nodes import Nodes
from joblet.gateway.store import queue as queue_queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.queue import Place

RETRY_SECONDS = 1.0  # after a failure of the store

_log = log.get_logger(__name__)


class Queue:
    def __init__(
        self, config: JobletConfig, database: Database, nodes: Nodes, launches: Launches, changes: Changes,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self._config = config
        self._database = database
        self._nodes = nodes
        self._launches = launches
        self._changes = changes
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._changes.room.wait()
            self._changes.room.clear()
            try:
                await self._serve()
            except JobletError as error:
                _log.error("jobs that wait cannot be placed yet", error=error.message)
                await asyncio.sleep(RETRY_SECONDS)
                self._changes.announce_room()

    def places(self, links: Iterable[Link]) -> list[Place]:
        return [self.place(link) for link in links]

    def place(self, link: Link) -> Place:
        offered = placement.capacity(link.node, self._config)
        node = link.node
        return Place(
            node.id, offered, node.cores, node.max_processes, placement.upload_room(node, offered.largest).size,
            full=link.full, connected=self._nodes.is_ready(link),
        )  # fmt: skip

    async def _serve(self) -> None:
        if await self._database.read(queue_queries.anybody):
            for link in self._nodes.ready():
                await self._fill(link)

    async def _fill(self, link: Link) -> None:
        while self._nodes.is_ready(link) and not link.full:
            job = await self._database.write(queue_queries.claim, self.place(link))
            if job is None:
                return
            self._metrics.queue_seconds.observe((time.time_ns() - job.queued_ns) / NS_PER_SECOND)
            _log.info("job placed", jobId=job.id, nodeId=job.node_id)
            await self._launches.hand_over(link, job)
            await asyncio.sleep(0)  # others have their turn between two jobs
