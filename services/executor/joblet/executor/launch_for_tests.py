"""Launches with real namespaces and cgroups, one step at a time, without a service around them: a ground for tests."""

import asyncio
import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joblet.common.config import Config, ExecutorConfig, JobletConfig
from joblet.common.contents import Contents
from joblet.executor import exitrecord, launch, machine, procfs, syscalls
from joblet.executor.attest import attest
from joblet.executor.cgroup.driver_for_tests import RUN
from joblet.executor.descriptors import reserve_low_descriptors
from joblet.executor.exitrecord import ExitRecord
from joblet.executor.job import Order
from joblet.executor.launch import Node, OutputLimits, Resources
from joblet.executor.logs import LogFiles
from joblet.executor.machine import Machine
from joblet.executor.nursery import Nursery
from joblet.executor.testing import ROOMY
from joblet.executor.waiting import end, readable

TIMEOUT_SECONDS = 120.0
END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Ground:
    """A prepared machine and room for one job after the other."""

    directory: Path
    machine: Machine
    node: Node

    @contextmanager
    def resources(self, job: Order) -> Iterator[Resources]:
        with ExitStack() as stack:
            user = self.machine.users.acquire()
            stack.callback(self.machine.users.release, user.base)
            cgroup = self.machine.cgroups.create(job.job_id, job.limits, self.machine.devices)
            stack.callback(cgroup.remove)
            state_dir = self.directory / "job"
            state_dir.mkdir()
            stack.callback(state_dir.rmdir)
            stack.callback(_empty, state_dir)
            state = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, state)
            flags = os.O_WRONLY | os.O_CREAT
            output = os.open(self.directory / "output", flags | os.O_TRUNC)
            stack.callback(os.close, output)
            index = os.open(self.directory / "index", flags | os.O_TRUNC | os.O_APPEND)
            stack.callback(os.close, index)
            yield Resources(state, LogFiles(output, index), cgroup, user)

    async def run(self, job: Order, **changes: Any) -> tuple[ExitRecord, dict[str, str]]:
        """Launches and waits for the end; the exit record and what was attested. `changes` are of the launch spec."""
        with self.resources(job) as resources, ExitStack() as stack:
            spec = replace(launch.launch_spec(job, resources, self.node), **changes)
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    with launch.spawn(spec.encode(), job.uploads, resources, self.node) as handshake:
                        pid, pidfd = await handshake.init()
                        stack.callback(os.close, pidfd)
                        stack.callback(end_init, pidfd)
                        expected = launch.expectation(job, resources, self.node, pid)
                        facts = attest(await handshake.parked(), resources.cgroup, expected)
                        await handshake.go()
                    await readable(pidfd)
            finally:
                stack.close()
            record = exitrecord.read(self.directory / "job")
            assert record is not None
            return record, facts

    def output(self) -> str:
        return (self.directory / "output").read_text()


@contextmanager
def other_ground(ground: Ground, jobinit: Path, template: int | None = None) -> Iterator[Ground]:
    """The same with another jobinit, and with another mount namespace that jobs start from if one is given."""
    chosen = ground.node.template if template is None else template
    with closing(Nursery(jobinit, chosen, ground.node.null)) as nursery:
        yield replace(ground, node=replace(ground.node, nursery=nursery, template=chosen))


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def end_init(pidfd: int) -> None:
    """A parked command leaves by itself once the socket is closed; init with it. One that is broken is killed."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    poll.poll(END_SECONDS * 1000)
    end(os.dup(pidfd))


@contextmanager
def prepared_ground(directory: Path) -> Iterator[Ground]:
    """Undone at the end, which fails when a mount or cgroup is left."""
    before = Path("/proc/self/mountinfo").read_text()
    with ExitStack() as stack:
        null = reserve_low_descriptors(stack)
        config = Config(
            joblet=JobletConfig(max_concurrent_jobs=2),
            executor=ExecutorConfig(state_dir=directory, cgroup_parent=f"{RUN}-launch"),
        )
        prepared = machine.prepare(config, stack)
        nursery = stack.enter_context(closing(Nursery(prepared.jobinit, prepared.template, null)))
        node = Node(
            nursery=nursery, template=prepared.template, bound_paths=prepared.bound_paths,
            host_namespaces=procfs.own_namespaces(), null=null, boot_id=procfs.boot_id(),
            cgroup_version=prepared.cgroups.version, landlock_abi=syscalls.landlock_abi(), tmp_bytes=16 << 20,
            work_bytes=16 << 20, grace_seconds=0.1, log_rate=0, contents=Contents(directory / "contents", ROOMY),
            outputs=OutputLimits(1 << 30, 1000, 10, 1 << 30, 3600),
        )  # fmt: skip
        yield Ground(directory, prepared, node)
    assert Path("/proc/self/mountinfo").read_text() == before
    # os.walk passes over what others remove meanwhile.
    assert not [path for path, names, _ in os.walk("/sys/fs/cgroup") if f"{RUN}-launch" in names]
