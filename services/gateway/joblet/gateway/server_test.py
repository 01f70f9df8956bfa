"""Jobs over real TLS, with a node that does what the test says."""

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc

from joblet.api import job_pb2
from joblet.common import metrics
from joblet.common.errors import Internal, InvalidArgument, JobletError, ResourceExhausted
from joblet.common.states import JobState
from joblet.gateway import listing, nodes
from joblet.gateway.server import services
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.testing import job_values
from joblet.gateway.testing import FakeJob, FakeNode, failure, output, run_forever, run_true, world
from joblet.gateway.unimplemented import MISSING

UNKNOWN = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def run_request(**fields: object) -> job_pb2.RunJobReq:
    return job_pb2.RunJobReq(**({"command": "true"} | fields))  # type: ignore[arg-type]


def test_a_job_runs_and_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_true
            client = await it.client()
            job = (await client.RunJob(run_request(args=["a"], name="n", labels={"k": "v"}))).job
            assert (job.status, job.command, list(job.args), job.exitCode) == ("INITIALIZING", "true", ["a"], 0)
            assert (job.maxCPU, job.maxMemory, job.maxIOBPS, job.network) == (100, 512, 0, "host")
            assert TIME.fullmatch(job.startTime)
            assert (job.endTime, job.nodeId, job.name, dict(job.labels)) == ("", "node-1", "n", {"k": "v"})
            assert await output(client.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job.uuid))) == b"true"
            over = await client.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job.uuid[:8]))
            assert (over.uuid, over.status, over.exitCode, over.reason) == (job.uuid, "COMPLETED", 0, "exit")
            assert TIME.fullmatch(over.endTime)
            assert (over.usage.peakMemoryBytes, list(over.notIsolated)) == (4096, ["network: host"])
            assert over.attestation.facts["CapEff"] == "0000000000000000"
            listed = await client.ListJobs(job_pb2.EmptyRequest())
            assert [(entry.id, entry.status) for entry in listed.jobs] == [(job.uuid, "COMPLETED")]
            async with asyncio.timeout(120):
                while it.node.forgotten != [job.uuid]:
                    await asyncio.sleep(0)

    asyncio.run(scenario())


def test_viewers_read_and_do_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            viewer = await it.client("viewer-client")
            assert await failure(viewer.RunJob(run_request())) == (
                "PERMISSION_DENIED", "role viewer is not allowed to perform operation run_job",
            )  # fmt: skip
            assert list((await viewer.ListJobs(job_pb2.EmptyRequest())).jobs) == []
            assert it.node.starts == []

    asyncio.run(scenario())


def test_what_is_wrong_is_said_and_nothing_is_stored(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            assert await failure(client.RunJob(run_request(command="ls; rm"))) == (
                "INVALID_ARGUMENT", "invalid command: command contains dangerous characters",
            )  # fmt: skip
            assert await failure(client.RunJob(run_request(maxMemory=9000))) == (
                "INVALID_ARGUMENT", "job creation failed: maxMemory exceeds system limits",
            )  # fmt: skip
            assert await failure(client.RunJob(run_request(volumes=["v"]))) == (
                "UNIMPLEMENTED", "volumes (volumes) is not implemented yet",
            )  # fmt: skip
            assert await failure(client.RunJob(run_request(nodeId="node-9"))) == (
                "NOT_FOUND", "node not found: node-9",
            )  # fmt: skip
            assert list((await client.ListJobs(job_pb2.EmptyRequest())).jobs) == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("refusal", "code", "reason"),
    [
        (Internal("cgroup setup failed: permission denied"), "INTERNAL", "launch-failed"),
        (ResourceExhausted("no uid range is free"), "RESOURCE_EXHAUSTED", "launch-failed"),
        (InvalidArgument("cpuCores: no CPU 9", field="cpuCores"), "INVALID_ARGUMENT", "limit-not-applied"),
    ],
)
def test_a_node_that_refuses(tmp_path: Path, refusal: JobletError, code: str, reason: str) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.refuse = refusal
            client = await it.client()
            assert await failure(client.RunJob(run_request(requestId="r"))) == (code, refusal.message)
            (job,) = (await client.ListJobs(job_pb2.EmptyRequest())).jobs
            assert (job.status, job.exitCode, job.reason, job.message) == ("FAILED", 125, reason, refusal.message)
            assert TIME.fullmatch(job.endTime)
            assert await output(client.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job.id))) == b""

    asyncio.run(scenario())


def test_a_lost_answer_is_no_failure(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script, it.node.lose_answers = run_true, 2
            client = await it.client()
            job = (await client.RunJob(run_request(secretEnvironment={"A": "s"}))).job
            assert (await it.until(job.uuid, "COMPLETED")).exitCode == 0
            assert set(it.node.starts) == {job.uuid}

    asyncio.run(scenario())


def test_an_executor_that_dies_before_it_has_the_job(tmp_path: Path) -> None:
    async def die_once(node: FakeNode, job: FakeJob) -> None:
        """It never had the job: nothing of it is left."""
        del node.jobs[job.spec.job_id]
        node.script = run_true
        await node.executor_down()
        await node.executor_up()

    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script, it.node.lose_answers = die_once, 1
            client = await it.client()
            upload = job_pb2.FileUpload(path="a", content=b"content")
            job = (await client.RunJob(run_request(uploads=[upload]))).job
            await it.until(job.uuid, "COMPLETED")
            assert it.node.starts == [job.uuid, job.uuid]
            spec = (it.node.finished | it.node.jobs)[job.uuid].spec
            assert [(u.path, u.content, u.mode) for u in spec.uploads] == [("a", b"content", 0o644)]
            (shown,) = (await client.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job.uuid))).uploads
            assert (shown.path, shown.content, shown.mode, shown.size) == ("a", b"", 0o644, 7)

    asyncio.run(scenario())


def test_a_node_that_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "CONNECT_SECONDS", 0.05)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            link = it.gateway.nodes.link("node-1")
            await it.node.executor_down()
            async with asyncio.timeout(120):
                while link.connected.is_set():
                    await asyncio.sleep(0.01)
            assert await failure(client.RunJob(run_request())) == (
                "UNAVAILABLE", "node node-1 is not available: not connected",
            )  # fmt: skip
            assert it.gateway.nodes.missing() == "no node is connected (node-1)"
            assert list((await client.ListJobs(job_pb2.EmptyRequest())).jobs) == []

    asyncio.run(scenario())


def test_a_new_job_waits_a_moment_for_a_node_that_is_coming(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_true
            client = await it.client()
            await it.node.executor_down()
            await it.node.executor_up()
            job = (await client.RunJob(run_request())).job
            await it.until(job.uuid, "COMPLETED")

    asyncio.run(scenario())


def test_one_request_id_is_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            request = run_request(requestId="r-1", args=["a"])
            answers = await asyncio.gather(*(client.RunJob(request) for _ in range(100)))
            assert len({answer.job.uuid for answer in answers}) == 1
            assert it.node.starts == [answers[0].job.uuid]
            assert await failure(client.RunJob(run_request(requestId="r-1", args=["b"]))) == (
                "ALREADY_EXISTS", f"requestId r-1 was used for a different job: {answers[0].job.uuid}",
            )  # fmt: skip
            await it.node.executor_down()
            monkeypatch.setattr(nodes, "CONNECT_SECONDS", 0.05)
            assert (await client.RunJob(request)).job.uuid == answers[0].job.uuid

    asyncio.run(scenario())


def test_stopping(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            job = (await client.RunJob(run_request())).job
            stopped = (await client.StopJob(job_pb2.StopJobReq(uuid=job.uuid[:8]))).job
            assert (stopped.uuid, stopped.status, stopped.exitCode) == (job.uuid, "STOPPED", -1)
            assert TIME.fullmatch(stopped.endTime)
            assert await failure(client.StopJob(job_pb2.StopJobReq(uuid=job.uuid))) == (
                "FAILED_PRECONDITION", f"job is not running: {job.uuid} (current status: STOPPED)",
            )  # fmt: skip
            assert await failure(client.StopJob(job_pb2.StopJobReq(uuid=UNKNOWN))) == (
                "NOT_FOUND", f"job not found: {UNKNOWN}",
            )  # fmt: skip

    asyncio.run(scenario())


def test_a_job_that_ends_while_it_is_stopped_keeps_its_own_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script, it.node.ends_before_stop = run_forever, True
            client = await it.client()
            job = (await client.RunJob(run_request())).job
            assert await failure(client.StopJob(job_pb2.StopJobReq(uuid=job.uuid))) == (
                "FAILED_PRECONDITION", f"job is not running: {job.uuid} (current status: COMPLETED)",
            )  # fmt: skip

    asyncio.run(scenario())


def test_stopping_what_its_node_never_heard_of(tmp_path: Path) -> None:
    async def vanish(node: FakeNode, job: FakeJob) -> None:
        del node.jobs[job.spec.job_id]
        await node.executor_down()

    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script, it.node.lose_answers = vanish, 1
            client = await it.client()
            job = (await client.RunJob(run_request())).job
            stopped = (await client.StopJob(job_pb2.StopJobReq(uuid=job.uuid))).job
            assert (stopped.status, stopped.exitCode, stopped.reason) == ("STOPPED", -1, "stopped")
            await it.node.executor_up()
            await it.beat()
            assert it.node.starts == [job.uuid]  # not handed over again

    asyncio.run(scenario())


def test_stopping_what_runs_although_nobody_knew(tmp_path: Path) -> None:
    async def run_unheard(node: FakeNode, job: FakeJob) -> None:
        await node.executor_down()
        node.started(job)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script, it.node.lose_answers = run_unheard, 1
            client = await it.client()
            job = (await client.RunJob(run_request())).job
            assert (await client.StopJob(job_pb2.StopJobReq(uuid=job.uuid))).job.status == "STOPPED"
            assert it.node.jobs[job.uuid].outcome is None
            await it.node.executor_up()
            async with asyncio.timeout(120):
                while it.node.forgotten != [job.uuid]:  # stopped there, and forgotten
                    await asyncio.sleep(0.01)
            assert (await it.status(job.uuid)).status == "STOPPED"

    asyncio.run(scenario())


def test_stopping_while_the_node_is_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            job = (await client.RunJob(run_request())).job
            await it.until(job.uuid, "RUNNING")
            await it.node.executor_down()
            code, text = await failure(client.StopJob(job_pb2.StopJobReq(uuid=job.uuid)))
            assert code == "UNAVAILABLE"
            assert text.startswith("node node-1 is not available: ")
            assert (await it.status(job.uuid)).status == "RUNNING"

    asyncio.run(scenario())


def test_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            job = (await client.RunJob(run_request())).job
            await it.until(job.uuid, "RUNNING")
            early = await client.WaitJob(job_pb2.WaitJobReq(uuid=job.uuid, timeoutSeconds=1))
            assert early.job.status == "RUNNING"
            waiting = [asyncio.ensure_future(client.WaitJob(job_pb2.WaitJobReq(uuid=job.uuid))) for _ in range(20)]
            it.node.ended(it.node.jobs[job.uuid], "FAILED", 7)
            assert {(await one).job.exitCode for one in waiting} == {7}
            again = await client.WaitJob(job_pb2.WaitJobReq(uuid=job.uuid))
            assert again.job.status == "FAILED"
            assert (await failure(client.WaitJob(job_pb2.WaitJobReq(uuid=job.uuid, timeoutSeconds=-1))))[0] == (
                "INVALID_ARGUMENT"
            )
            assert len(it.gateway.changes) == 0

    asyncio.run(scenario())


def test_listing_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_BYTES", 20_000)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            ids = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(450)]
            for job_id in reversed(ids):
                values = job_values(job_id, state=JobState.COMPLETED, args=("x" * 50,))
                await it.gateway.database.write(job_queries.insert_job, values, [])
            for size in (0, 7, 450, 1000):
                listed: list[str] = []
                token = ""
                while True:
                    page = await client.ListJobs(job_pb2.EmptyRequest(pageToken=token, pageSize=size))
                    assert page.ByteSize() <= 20_000
                    assert len(page.jobs) <= (size or 450)
                    listed += [job.id for job in page.jobs]
                    token = page.nextPageToken
                    if not token:
                        break
                assert listed == ids[::-1]
            for bad in ("x", "-1", "1" * 30, "²"):
                assert (await failure(client.ListJobs(job_pb2.EmptyRequest(pageToken=bad))))[0] == "INVALID_ARGUMENT"
            assert (await failure(client.ListJobs(job_pb2.EmptyRequest(pageSize=-1))))[0] == "INVALID_ARGUMENT"

    asyncio.run(scenario())


def test_prefixes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            ids = ["abcd0000-0000-4000-8000-000000000000", "abcd1111-0000-4000-8000-000000000000"]
            for job_id in ids:
                values = job_values(job_id, state=JobState.COMPLETED)
                await it.gateway.database.write(job_queries.insert_job, values, [])
            ambiguous = ("INVALID_ARGUMENT", f"job id abcd is ambiguous: {ids[0]}, {ids[1]}")
            assert await failure(client.GetJobStatus(job_pb2.GetJobStatusReq(uuid="abcd"))) == ambiguous
            assert await failure(client.StopJob(job_pb2.StopJobReq(uuid="abcd"))) == ambiguous
            assert await failure(client.WaitJob(job_pb2.WaitJobReq(uuid="abcd"))) == ambiguous
            assert await failure(output(client.GetJobLogs(job_pb2.GetJobLogsReq(uuid="abcd")))) == ambiguous
            assert (await client.GetJobStatus(job_pb2.GetJobStatusReq(uuid="abcd1"))).uuid == ids[1]
            empty = ("INVALID_ARGUMENT", "no job id given")
            assert await failure(client.GetJobStatus(job_pb2.GetJobStatusReq())) == empty

    asyncio.run(scenario())


def test_secrets_reach_the_executor_and_nothing_else(tmp_path: Path) -> None:
    canary = "canary-5f2e"

    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            request = run_request(secretEnvironment={"TOKEN": canary}, environment={"A": "b"}, requestId="r")
            answer = await client.RunJob(request)
            job = await it.until(answer.job.uuid, "RUNNING")
            assert dict(it.node.jobs[job.uuid].spec.secret_environment) == {"TOKEN": canary}
            listed = await client.ListJobs(job_pb2.EmptyRequest())
            for message in (answer.job, job, listed.jobs[0]):
                assert dict(message.secret_environment) == {"TOKEN": "***"}
                assert dict(message.environment) == {"A": "b"}
            assert await it.gateway.database.read(job_queries.sealed_of, job.uuid) == b""

    asyncio.run(scenario())
    files = [path for path in tmp_path.rglob("gateway.db*") if path.is_file()]
    assert files
    assert not any(canary.encode() in path.read_bytes() for path in files)


def test_every_rpc_of_later_work_says_what_is_missing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            channel = await it.channel()
            for service in services():
                for method in service.methods:
                    feature = MISSING.get(service.full_name, {}).get(method.name)
                    if feature is None:
                        continue
                    request = GetMessageClass(method.input_type)()
                    kind = "stream" if method.client_streaming else "unary"
                    kind += "_stream" if method.server_streaming else "_unary"
                    call = getattr(channel, kind)(
                        f"/{service.full_name}/{method.name}",
                        request_serializer=GetMessageClass(method.input_type).SerializeToString,
                        response_deserializer=GetMessageClass(method.output_type).FromString,
                    )(iter([request]) if method.client_streaming else request)
                    assert await failure(output(call) if method.server_streaming else call) == (
                        "UNIMPLEMENTED", f"{feature} is not implemented yet",
                    )  # fmt: skip

    asyncio.run(scenario())


def test_health_metrics_and_readiness(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_true
            health: Any = health_pb2_grpc.HealthStub(await it.channel("viewer-client"))
            answer = await health.Check(health_pb2.HealthCheckRequest(service="joblet.JobService"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            http = metrics.start_http("127.0.0.1:0", it.registry, it.gateway.nodes.missing)
            try:
                base = f"http://127.0.0.1:{http.port}"
                assert (await asyncio.to_thread(_get, f"{base}/readyz")) == (200, "ok\n")
                client = await it.client()
                job = (await client.RunJob(run_request())).job
                await it.until(job.uuid, "COMPLETED")
                wanted = ['joblet_jobs{state="COMPLETED"} 1.0', 'joblet_jobs{state="RUNNING"} 0.0']
                for phase in ("gateway", "store", "node", "running"):
                    wanted.append(f'joblet_job_start_seconds_count{{phase="{phase}"}} 1.0')
                async with asyncio.timeout(120):  # what the store says already may be counted a moment later
                    while not set(wanted) <= set((await asyncio.to_thread(_get, f"{base}/metrics"))[1].splitlines()):
                        await asyncio.sleep(0.01)
                it.gateway.nodes._links.clear()
                assert await asyncio.to_thread(_get, f"{base}/readyz") == (503, "no node is registered\n")
            finally:
                http.stop()

    asyncio.run(scenario())


def _get(url: str) -> tuple[int, str]:
    try:
        with urlopen(url, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()
