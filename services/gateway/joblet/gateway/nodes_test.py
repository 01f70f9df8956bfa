"""Nodes that register, are lost, come back, forget, and gateways that restart: over real TLS."""

import asyncio
from pathlib import Path

import pytest

from joblet.api import job_pb2
from joblet.api.internal import registry_pb2
from joblet.api.internal.registry_pb2_grpc import RegistryServiceStub
from joblet.common.pki import write_bundle
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store import nodes as node_queries
from joblet.gateway.store.model import NodeState
from joblet.gateway.testing import (
    NODE,
    FakeJob,
    FakeNode,
    failure,
    run_forever,
    run_true,
    world,
)

TIMEOUT_SECONDS = 120.0


def test_only_nodes_register(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            answer = await it.heartbeat()
            assert answer.lease_seconds == 15
            for name, role in (("admin-client", "admin"), ("gateway", "gateway")):
                stub = RegistryServiceStub(await it.channel(name))
                assert await failure(stub.Heartbeat(it.node.heartbeat())) == (
                    "PERMISSION_DENIED", f"role {role} is not allowed to perform operation heartbeat",
                )  # fmt: skip

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"executor_address": "nonsense"}, "invalid executor_address"),
        ({"logstore_address": ""}, "invalid logstore_address"),
        ({"runtime_address": "h:0"}, "invalid runtime_address: h:0 has no port"),
        ({"cpu_cores": 0}, "a heartbeat without the node's capacity"),
        ({"memory_bytes": -1}, "a heartbeat without the node's capacity"),
    ],
)
def test_heartbeats_that_make_no_sense(tmp_path: Path, fields: dict[str, object], why: str) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            request = it.node.heartbeat()
            request.MergeFrom(registry_pb2.HeartbeatRequest())
            for name, value in fields.items():
                setattr(request, name, value)
            code, text = await failure(RegistryServiceStub(await it.channel("node")).Heartbeat(request))
            assert (code, text[: len(why)]) == ("INVALID_ARGUMENT", why)

    asyncio.run(scenario())


def test_a_node_that_moves(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            job = (await client.RunJob(job_pb2.RunJobReq(command="true"))).job
            old = it.gateway.nodes.link(NODE)
            await it.node.executor_down()
            it.node.executor_port = 0  # another one
            await it.node.executor_up()
            await it.beat()
            assert it.gateway.nodes.link(NODE) is not old
            it.node.ended(it.node.jobs[job.uuid], "FAILED", 5)
            assert (await it.until(job.uuid, "FAILED")).exitCode == 5

    asyncio.run(scenario())


def test_lost_and_found(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, lease_seconds=1) as it:
            it.node.script = run_forever
            client = await it.client()
            ids = [(await client.RunJob(job_pb2.RunJobReq(command="true"))).job.uuid for _ in range(3)]
            for job_id in ids:
                await it.until(job_id, "RUNNING")
            waiting = asyncio.ensure_future(client.WaitJob(job_pb2.WaitJobReq(uuid=ids[0])))
            await it.node.executor_down()
            lost = (await waiting).job
            assert (lost.status, lost.reason, lost.exitCode) == ("FAILED", "node-lost", -1)
            assert lost.message.startswith("node node-1 was last heard of at 20")
            it.node.ended(it.node.jobs[ids[1]], "COMPLETED", 0)
            del it.node.jobs[ids[2]]
            await it.node.executor_up()
            await it.beat()
            assert (await it.until(ids[0], "RUNNING")).endTime == ""
            assert (await it.until(ids[1], "COMPLETED")).reason == "exit"
            assert (await it.status(ids[2])).reason == "node-lost"
            it.node.ended(it.node.jobs[ids[0]], "FAILED", 9)
            assert (await it.until(ids[0], "FAILED")).exitCode == 9

    asyncio.run(scenario())


def test_a_node_without_heartbeats_that_answers_is_not_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, lease_seconds=1) as it:
            it.node.script = run_forever
            client = await it.client()
            job = (await client.RunJob(job_pb2.RunJobReq(command="true"))).job
            first = it.gateway.nodes.link(NODE).node.lease_until_ns
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while (node := it.gateway.nodes.link(NODE).node).lease_until_ns == first:
                    await asyncio.sleep(0.05)
            assert node.state is NodeState.READY
            assert (await it.until(job.uuid, "RUNNING")).reason == ""

    asyncio.run(scenario())


def test_a_node_that_lost_its_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            job = (await client.RunJob(job_pb2.RunJobReq(command="true"))).job
            await it.until(job.uuid, "RUNNING")
            await it.node.executor_down()
            it.node.lose_state()
            await it.node.executor_up()
            gone = await it.until(job.uuid, "FAILED")
            assert (gone.reason, gone.message) == ("node-lost", "node node-1 no longer knows this job")
            it.node.script = run_true
            again = (await client.RunJob(job_pb2.RunJobReq(command="true"))).job
            await it.until(again.uuid, "COMPLETED")  # events are counted anew

    asyncio.run(scenario())


def test_events_that_the_node_has_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            ids = [(await client.RunJob(job_pb2.RunJobReq(command="true"))).job.uuid for _ in range(2)]
            for job_id in ids:
                await it.until(job_id, "RUNNING")
            await it.node.executor_down()
            it.node.ended(it.node.jobs[ids[0]], "FAILED", 3)
            it.node.first_event += len(it.node.events)
            it.node.events.clear()
            await it.node.executor_up()
            assert (await it.until(ids[0], "FAILED")).exitCode == 3
            it.node.ended(it.node.jobs[ids[1]], "COMPLETED", 0)
            await it.until(ids[1], "COMPLETED")

    asyncio.run(scenario())


def test_the_node_with_fewest_jobs_gets_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, max_concurrent_jobs=3) as it:
            second = FakeNode(it.bundle, node_id="node-2")
            it.stack.push_async_callback(second.down)
            await second.up()
            await it.beat(second)
            it.node.script = second.script = run_forever
            client = await it.client()

            async def place(wanted: str = "") -> str:
                return (await client.RunJob(job_pb2.RunJobReq(command="true", nodeId=wanted))).job.nodeId

            assert [await place(), await place(), await place("node-1")] == ["node-1", "node-2", "node-1"]
            assert [await place(), await place(), await place()] == ["node-2", "node-1", "node-2"]
            assert [await place(), await place("node-2")] == ["", ""]
            assert len(it.node.jobs) == len(second.jobs) == 3

    asyncio.run(scenario())


async def _die_without_the_job(node: FakeNode, job: FakeJob) -> None:
    """The executor dies before it has stored anything of the job."""
    del node.jobs[job.spec.job_id]
    await node.executor_down()


def test_a_gateway_that_restarts(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)

    async def scenario() -> None:
        node = FakeNode(bundle)
        try:
            async with world(tmp_path, bundle=bundle, node=node) as it:
                client = await it.client()
                node.script = run_forever
                running = (await client.RunJob(job_pb2.RunJobReq(command="true"))).job.uuid
                await it.until(running, "RUNNING")
                node.script, node.lose_answers = _die_without_the_job, 1
                upload = job_pb2.FileUpload(path="f", content=b"content")
                unsent = (await client.RunJob(job_pb2.RunJobReq(command="true", uploads=[upload]))).job
                assert unsent.status == "INITIALIZING"
            node.ended(node.jobs[running], "FAILED", 4)
            node.script = run_true
            async with world(tmp_path, bundle=bundle, node=node) as it:
                assert (await it.until(running, "FAILED")).exitCode == 4
                await it.until(unsent.uuid, "COMPLETED")
                assert node.starts == [running, unsent.uuid, unsent.uuid]
                assert (node.finished | node.jobs)[unsent.uuid].spec.uploads[0].content == b"content"
            async with world(tmp_path, bundle=bundle, node=node) as it:
                assert (await it.status(unsent.uuid)).status == "COMPLETED"
                assert node.starts == [running, unsent.uuid, unsent.uuid]
        finally:
            await node.down()

    asyncio.run(scenario())


def test_secrets_outlive_the_gateway(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)

    async def scenario() -> None:
        node = FakeNode(bundle)
        try:
            async with world(tmp_path, bundle=bundle, node=node) as it:
                node.script, node.lose_answers = _die_without_the_job, 1
                client = await it.client()
                request = job_pb2.RunJobReq(command="true", secretEnvironment={"A": "canary-7d1"})
                job = (await client.RunJob(request)).job
            assert not any(b"canary-7d1" in path.read_bytes() for path in tmp_path.glob("gateway.db*"))
            node.script = run_forever
            async with world(tmp_path, bundle=bundle, node=node) as it:
                await it.until(job.uuid, "RUNNING")
                assert dict(node.jobs[job.uuid].spec.secret_environment) == {"A": "canary-7d1"}
                assert await it.gateway.database.read(job_queries.sealed_of, job.uuid) == b""
        finally:
            await node.down()

    asyncio.run(scenario())


def test_secrets_outlive_an_executor(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script, it.node.lose_answers = _die_without_the_job, 1
            client = await it.client()
            job = (await client.RunJob(job_pb2.RunJobReq(command="true", secretEnvironment={"A": "s"}))).job
            it.node.script = run_forever
            await it.node.executor_up()
            await it.until(job.uuid, "RUNNING")
            assert dict(it.node.jobs[job.uuid].spec.secret_environment) == {"A": "s"}

    asyncio.run(scenario())


def test_many_jobs_while_executor_and_gateway_restart(tmp_path: Path) -> None:
    """Each job is started once, ends once, and every end arrives."""
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)

    async def scenario() -> None:
        node = FakeNode(bundle)
        node.script = run_true
        ids: list[str] = []
        try:
            for _ in range(4):
                async with world(tmp_path, bundle=bundle, node=node) as it:
                    client = await it.client()
                    for number in range(30):
                        ids.append((await client.RunJob(job_pb2.RunJobReq(command="true"))).job.uuid)
                        if number % 10 == 9:
                            await node.executor_down()
                            await node.executor_up()
            async with world(tmp_path, bundle=bundle, node=node) as it:
                for job_id in ids:
                    await it.until(job_id, "COMPLETED")
                sequence = await it.gateway.database.read(node_queries.last_sequence, NODE)
                assert sequence == node.last_sequence == 2 * len(ids)
                assert len(set(ids)) == len(ids)
        finally:
            await node.down()

    asyncio.run(scenario())
