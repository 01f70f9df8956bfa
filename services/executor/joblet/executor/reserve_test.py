"""What a reserve keeps while orders of another kind come in; the inits are stand-ins."""

import asyncio
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from joblet.executor import reserve
from joblet.executor.job import Network
from joblet.executor.launch import Prepared
from joblet.executor.reserve import STOCK, Reserve
from joblet.executor.testing import order
from joblet.executor.userns import UserNamespace, UserNamespacePool


async def filled(reserve: Reserve) -> None:
    while reserve._pause is not None or reserve._filling is not None:
        await asyncio.sleep(0.001)  # between two looks; nothing depends on its length


def test_a_network_asked_for_while_another_is_being_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Network] = []
    cgroups_missing = [3]
    reserves: list[Reserve] = []
    users = UserNamespacePool()
    node: Any = SimpleNamespace(cgroup_version=1)

    def make_spare() -> bool:
        cgroups_missing[0] -= 1
        if cgroups_missing[0] >= 0:
            return True
        cgroups_missing[0] = 0
        return False

    cgroups: Any = SimpleNamespace(make_spare=make_spare)

    async def prepare(network: Network, user: UserNamespace, node: object) -> Prepared:
        if not made:
            assert reserves[0].take(order(network=Network.HOST)) is None
        made.append(network)
        cgroups_missing[0] += 1  # a job was launched
        return Prepared(socket.socket(socket.AF_UNIX), 1, user, os.open(os.devnull, os.O_RDONLY))

    def dropped(prepared: Prepared) -> None:
        prepared.control.close()
        os.close(prepared.take_pidfd())

    async def scenario() -> None:
        for number in range(2 * STOCK):
            users.add(UserNamespace((number + 1) << 16, 1 << 16, os.open(os.devnull, os.O_RDONLY), number))
        async with asyncio.TaskGroup() as tasks:
            reserves.append(Reserve(node, users, cgroups, tasks))
            (kept,) = reserves
            assert kept.take(order(network=Network.NONE)) is None
            kept.refill()
            await filled(kept)
            kept.refill()
            await filled(kept)
        kept.close()
        users.close()

    monkeypatch.setattr(reserve, "prepare", prepare)
    monkeypatch.setattr(Prepared, "close", dropped)
    asyncio.run(scenario())
    assert made == [Network.NONE] * STOCK + [Network.HOST] * STOCK
    assert cgroups_missing == [0]
    assert users.used_bases == frozenset()
