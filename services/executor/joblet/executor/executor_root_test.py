"""What an Executor does when something is wrong around it: in this process, with a real machine and a real logstore."""

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joblet.common import config as configuration
from joblet.common.config import Config
from joblet.common.contents import Contents
from joblet.common.errors import Code, Internal, JobletError, Unavailable
from joblet.common.ids import new_job_id
from joblet.common.states import JobState, Reason
from joblet.executor import machine, supervise
from joblet.executor.admission import Capacity
from joblet.executor.adopt import adopt_jobs
from joblet.executor.cgroup.limits import Limits
from joblet.executor.descriptors import reserve_low_descriptors
from joblet.executor.executor import Executor
from joblet.executor.feed import Feed
from joblet.executor.job import Order, Outcome
from joblet.executor.journal import Journal
from joblet.executor.logs import LogStore
from joblet.executor.machine import Machine
from joblet.executor.nursery import Nursery
from joblet.executor.outputs import Outputs
from joblet.executor.server import Prepared, output_limits, site_of
from joblet.executor.site import Site
from joblet.executor.testing import LIMITS, ROOMY, order
from joblet.executor.testing_node import TIMEOUT_SECONDS, NodeProcesses, wait_until

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]


class Bench:
    """A prepared machine and a logstore, for one Executor after the other."""

    def __init__(self, config: Config, prepared: Prepared, machine: Machine, node: NodeProcesses) -> None:
        self.config = config
        self.prepared = prepared
        self.machine = machine
        self.node = node

    @asynccontextmanager
    async def executor(
        self, *, logstore_seconds: float = TIMEOUT_SECONDS, **changes: object
    ) -> AsyncIterator[Executor]:
        """It waits so long for the logstore; `changes` replace fields of its site."""
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            with (
                closing(LogStore(self.config.executor.logstore_socket, timeout_seconds=logstore_seconds)) as logs,
                ThreadPoolExecutor(1) as cleaner,
                closing(Nursery(self.machine.jobinit, self.machine.template, self.prepared.null)) as nursery,
            ):
                contents = Contents(self.config.executor.state_dir / "contents", ROOMY)
                outputs = Outputs(self.config.executor.state_dir / "outputs", output_limits(self.config))
                feed = Feed(self.prepared.journal)
                site = site_of(
                    self.config, self.prepared, self.machine, nursery, feed, logs, cleaner, contents, outputs
                )
                executor = Executor(replace(site, **changes), machine.capacity(self.config), tasks)  # type: ignore[arg-type]
                try:
                    yield executor
                finally:
                    await executor.close()

    def left(self) -> list[str]:
        """What jobs hold of the node now."""
        jobs = [path.name for path in (self.config.executor.state_dir / "jobs").iterdir()]
        return [*jobs, *self.machine.cgroups.existing(), *map(str, self.machine.users.used_bases)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    node = NodeProcesses(tmp_path_factory.mktemp("jbtest-bench"))
    node.start_logstore()
    try:
        with ExitStack() as stack:
            null = reserve_low_descriptors(stack)
            config = configuration.load(node.write_config())
            config.executor.state_dir.mkdir()
            prepared_machine = machine.prepare(config, stack)
            journal = stack.enter_context(closing(Journal(config.executor.state_dir / "journal.db")))
            prepared = Prepared(prepared_machine, journal, null)
            yield Bench(config, prepared, prepared_machine, node)
    finally:
        if node.logstore.running:
            node.logstore.end(signal.SIGTERM)


def new_order(**changes: object) -> Order:
    return order(job_id=new_job_id(), **changes)


async def end_of(site: Site, job_id: str) -> Outcome:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        async for event in site.feed.after(0):
            if event.job_id == job_id and isinstance(event.body, Outcome):
                return event.body
    raise AssertionError("the feed has no end")


class NotingCleaner(ThreadPoolExecutor):
    """Notes when it is given something to do."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__(1)
        self.notes = notes

    def submit(self, *work: Any, **options: Any) -> "Future[Any]":
        self.notes.append("removed")
        return super().submit(*work, **options)


def test_an_end_is_told_before_anything_is_removed(bench: Bench) -> None:
    notes: list[str] = []

    async def scenario() -> None:
        with NotingCleaner(notes) as cleaner:
            async with bench.executor(cleaner=cleaner) as executor:
                job = new_order()
                await executor.start(job)
                await end_of(executor.site, job.job_id)
                notes.append("told")

    asyncio.run(scenario())
    assert notes == ["told", "removed"]
    assert bench.left() == []


def test_a_job_waits_for_the_ids_of_one_that_has_ended(bench: Bench) -> None:
    async def scenario() -> None:
        users, may_go_on = bench.machine.users, threading.Event()
        with ThreadPoolExecutor(1) as cleaner:
            async with bench.executor(cleaner=cleaner) as executor:
                taken = []
                while not users.exhausted:
                    taken.append(users.acquire())
                users.release(taken.pop().base)
                cleaner.submit(may_go_on.wait, TIMEOUT_SECONDS)
                first, second = new_order(), new_order()
                await executor.start(first)
                await end_of(executor.site, first.job_id)
                waiting = asyncio.ensure_future(executor.start(second))
                await asyncio.wait([waiting], timeout=0.05)
                assert not waiting.done()
                may_go_on.set()
                await waiting
                assert (await end_of(executor.site, second.job_id)).state is JobState.COMPLETED
                for user in taken:
                    users.release(user.base)

    asyncio.run(scenario())
    assert bench.left() == []


async def refusal_of(executor: Executor, job: Order) -> JobletError:
    with pytest.raises(JobletError) as refusal:
        await executor.start(job)
    assert executor.site.journal.job(job.job_id) is None
    return refusal.value


def test_a_limit_that_cannot_be_applied_is_named_and_nothing_stays(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.executor(devices=()) as executor:
            job = new_order(limits=replace(LIMITS, io_bytes_per_second=1 << 20))
            refusal = await refusal_of(executor, job)
            assert refusal.code is Code.INTERNAL
            assert refusal.message.startswith("job creation failed: limit maxIOBPS cannot be applied: ")
            assert bench.left() == []
            assert await bench.node.output(job.job_id) == b""  # it has an end, so nobody waits for more

    asyncio.run(scenario())


def test_without_a_logstore_no_job_starts(bench: Bench) -> None:
    async def scenario() -> None:
        bench.node.logstore.end(signal.SIGTERM)
        try:
            async with bench.executor(logstore_seconds=0.2) as executor:
                refusal = await refusal_of(executor, new_order())
                assert isinstance(refusal, Unavailable)
                assert bench.left() == []
        finally:
            await asyncio.to_thread(bench.node.start_logstore)
        async with bench.executor() as executor:
            job = new_order()
            await executor.start(job)
            outcome = await end_of(executor.site, job.job_id)
            assert outcome.state is JobState.COMPLETED, outcome.message

    asyncio.run(scenario())


def commands_with(argument: str) -> list[str]:
    """Command lines of the processes that were given this."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # ended while we looked
            arguments = path.read_bytes().decode(errors="replace").split("\0")
            if argument in arguments:
                found.append(" ".join(arguments))
    return found


def test_jobinit_that_hangs_is_given_up(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "LAUNCH_SECONDS", 0.2)
    hanging = tmp_path / "jobinit"
    hanging.write_text("#!/bin/sh\nwhile :; do sleep 1; done\n")
    hanging.chmod(0o755)

    async def scenario() -> None:
        with closing(Nursery(hanging, bench.machine.template, bench.prepared.null)) as nursery:
            async with bench.executor() as executor:
                node = replace(executor.site.node, nursery=nursery)
            async with bench.executor(node=node) as hung:
                job = new_order()
                await hung.start(job)
                outcome = await end_of(hung.site, job.job_id)
        assert (outcome.state, outcome.reason, outcome.exit_code) == (JobState.FAILED, Reason.LAUNCH, 125)
        assert outcome.message == "job could not be started within 0.2 s"
        assert outcome.started_ns == 0
        assert bench.left() == []
        wait_until(lambda: not commands_with(str(hanging)), lambda: "it hangs on")

    asyncio.run(scenario())


def test_a_journal_without_room_refuses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(record: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async def scenario() -> None:
        async with bench.executor() as executor:
            with monkeypatch.context() as patch:
                patch.setattr(bench.prepared.journal, "add", full)
                refusal = await refusal_of(executor, new_order())
            assert isinstance(refusal, Internal)
            assert refusal.message == "job creation failed: database or disk is full"
            assert bench.left() == []

    asyncio.run(scenario())


def test_an_end_waits_for_room_in_the_journal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_JOURNAL_RETRY_SECONDS", 0.01)
    refusals = 3

    async def scenario() -> None:
        async with bench.executor() as executor:
            write = executor.site.journal._write

            def sometimes_full(*arguments: object) -> object:
                nonlocal refusals
                if refusals:
                    refusals -= 1
                    raise sqlite3.OperationalError("database or disk is full")
                return write(*arguments)  # type: ignore[arg-type]

            monkeypatch.setattr(executor.site.journal, "_write", sometimes_full)
            job = new_order()
            await executor.start(job)
            outcome = await end_of(executor.site, job.job_id)
            assert outcome.state is JobState.COMPLETED, outcome.message
        assert refusals == 0

    asyncio.run(scenario())


def test_an_executor_that_is_leaving_takes_nothing(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.executor() as executor:
            running = new_order(command="sleep", args=("1000",))
            await executor.start(running)
            await executor.close()  # comes back when the launch is over
            with pytest.raises(Unavailable):
                await executor.start(new_order())
            record = executor.site.journal.job(running.job_id)
            assert record is not None
            assert record.state is JobState.RUNNING
            assert record.init is not None
            os.kill(record.init.pid, signal.SIGKILL)
        async with bench.executor() as successor:
            adopt_jobs(successor, bench.tasks)
            assert (await end_of(successor.site, running.job_id)).reason is Reason.SUPERVISOR_KILLED
            await asyncio.to_thread(wait_until, lambda: bench.left() == [], lambda: f"left: {bench.left()}")

    asyncio.run(scenario())


def test_capacity_is_the_machines(bench: Bench) -> None:
    found = machine.capacity(bench.config)
    assert found == Capacity(
        cores=frozenset(os.sched_getaffinity(0)), memory_bytes=machine.memory_bytes(),
        max_processes=int(Path("/proc/sys/kernel/pid_max").read_text()), max_concurrent_jobs=8,
    )  # fmt: skip
    assert Limits(memory_bytes=found.memory_bytes).memory_bytes > 1 << 28
