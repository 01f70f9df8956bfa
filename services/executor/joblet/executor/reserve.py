"""Inits prepared ahead of the jobs they will serve: namespaces, mounts and network exist before the order comes.

That is two thirds of a launch, and none of it depends on the job. A prepared init waits on its control socket, holding
nothing of any job, and leaves when the socket closes (also when the executor dies). It serves one job and never
another; what it made is attested with everything else while the command waits. Only for cgroup v1: on v2 init starts
inside the job's cgroup (clone3 with CLONE_INTO_CGROUP), which must exist by then.

Kinds (networks) that were asked for once are kept in stock; it is filled a moment after a launch, one by one. So are
the cgroups that the driver makes ahead (`cgroup.spare`).
"""

import asyncio
from typing import Final

from joblet.common import log
from joblet.common.errors import JobletError
from joblet.executor.cgroup.driver import CgroupDriver
from joblet.executor.job import Network, Order
from joblet.executor.jobspec import Profile
from joblet.executor.launch import LaunchError, Node, Prepared, prepare
from joblet.executor.userns import UserNamespacePool

STOCK: Final = 2
"""Of each network."""
MOST: Final = STOCK * len(Network)
"""Uid ranges the reserve can hold beside those of jobs."""
_PAUSE_SECONDS: Final = 0.004  # so that filling up does not compete with the launch that emptied it
_PREPARE_SECONDS: Final = 10.0

_log = log.get_logger(__name__)


class Reserve:
    """Made inside the TaskGroup `tasks`; `close` ends everything that is still waiting."""

    def __init__(self, node: Node, users: UserNamespacePool, cgroups: CgroupDriver, tasks: asyncio.TaskGroup) -> None:
        self._node = node
        self._users = users
        self._cgroups = cgroups
        self._tasks = tasks
        self._stock: dict[Network, list[Prepared]] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    def take(self, order: Order) -> Prepared | None:
        """One that fits the order and is alive, for the caller to close. None: launch from the start."""
        if self._closed or self._node.cgroup_version != 1 or order.profile is not Profile.DEFAULT:
            return None
        stock = self._stock.setdefault(order.network, [])
        while stock:
            prepared = stock.pop(0)
            if prepared.alive():
                return prepared
            _log.warn("a prepared init ended before it got a job", pid=prepared.pid)
            self._drop(prepared)
        if self._users.exhausted:
            self.give_up()
        return None

    def refill(self) -> None:
        """Soon, without waiting for it."""
        if self._filling is None and self._pause is None and not self._closed and self._stock:
            self._pause = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._begin)

    def close(self) -> None:
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        if self._filling is not None:
            self._filling.cancel()
        self.give_up()

    def give_up(self) -> None:
        """Ends what waits, for instance because jobs need the uid ranges."""
        for stock in self._stock.values():
            while stock:
                self._drop(stock.pop())

    def _drop(self, prepared: Prepared) -> None:
        prepared.close()
        self._users.release(prepared.user.base)

    def _begin(self) -> None:
        self._pause = None
        self._make_cgroup()  # the one that a launch has taken; what comes in meanwhile goes before the rest
        self._filling = self._tasks.create_task(self._fill(), name="prepare inits")

    async def _fill(self) -> None:
        try:
            await self._make_cgroups()
            while (network := self._lacking()) is not None:
                self._stock[network].append(await self._prepared(network))
                await self._make_cgroups()  # jobs that were launched meanwhile took some
        except (OSError, LaunchError, TimeoutError) as error:
            _log.warn("no init could be prepared ahead", error=error)
        finally:
            self._filling = None

    def _lacking(self) -> Network | None:
        """A network that one more init can be prepared for."""
        short = (network for network, stock in self._stock.items() if len(stock) < STOCK)
        return None if self._users.exhausted else next(short, None)

    async def _make_cgroups(self) -> None:
        while self._make_cgroup():
            await asyncio.sleep(0)  # what came in meanwhile goes first

    def _make_cgroup(self) -> bool:
        """Whether there may be more to make."""
        try:
            return self._cgroups.make_spare()
        except JobletError as error:
            _log.warn("no cgroup could be made ahead", error=error)
            return False

    async def _prepared(self, network: Network) -> Prepared:
        user = self._users.acquire()
        try:
            async with asyncio.timeout(_PREPARE_SECONDS):
                return await prepare(network, user, self._node)
        except BaseException:
            self._users.release(user.base)
            raise
