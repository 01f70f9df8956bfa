"""Launches with real namespaces and cgroups, one step at a time, without a service around them."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from joblet.common.config import Config, ExecutorConfig, JobletConfig
from joblet.executor import exitrecord, launch, machine, procfs, syscalls
from joblet.executor.attest import AttestationFailed, attest
from joblet.executor.descriptors import reserve_low_descriptors
from joblet.executor.exitrecord import EndReason, ExitRecord
from joblet.executor.job import Network, Order, Upload
from joblet.executor.jobspec import LaunchFlag, Profile, Stage
from joblet.executor.launch import LaunchError, Node, Resources
from joblet.executor.logs import LogFiles
from joblet.executor.machine import Machine
from joblet.executor.testing import LIMITS, order
from joblet.executor.waiting import readable

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]

TIMEOUT_SECONDS = 20.0


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
            contents = [upload.content for upload in job.uploads]
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    with launch.spawn(spec.encode(), contents, resources, self.node) as handshake:
                        pid, pidfd = await handshake.init()
                        stack.callback(os.close, pidfd)
                        stack.callback(_end, pidfd)
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


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def _end(pidfd: int) -> None:
    """A parked command leaves by itself once the socket is closed; init with it."""
    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    directory = tmp_path_factory.mktemp("jbtest-launch")
    before = Path("/proc/self/mountinfo").read_text()
    with ExitStack() as stack:
        null = reserve_low_descriptors(stack)
        config = Config(
            joblet=JobletConfig(max_concurrent_jobs=2),
            executor=ExecutorConfig(state_dir=directory, cgroup_parent=f"jbtest-launch-{os.getpid()}"),
        )
        prepared = machine.prepare(config, stack)
        node = Node(
            jobinit=prepared.jobinit, template=prepared.template, bound_paths=prepared.bound_paths,
            host_namespaces=procfs.own_namespaces(), null=null, boot_id=procfs.boot_id(),
            cgroup_version=prepared.cgroups.version, landlock_abi=syscalls.landlock_abi(), tmp_bytes=16 << 20,
            work_bytes=16 << 20, grace_seconds=0.1, log_rate=0,
        )  # fmt: skip
        yield Ground(directory, prepared, node)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert not list(Path("/sys/fs/cgroup").glob(f"**/jbtest-launch-{os.getpid()}"))


def test_a_job_is_attested_and_runs(ground: Ground) -> None:
    job = order(
        command="sh", args=("-c", "cat up/load; readlink /proc/self/ns/*; exit 3"),
        uploads=(Upload("up/load", 0o600, b"content\n", is_directory=False),),
    )  # fmt: skip
    record, facts = asyncio.run(ground.run(job))
    assert (record.reason, record.exit_code, record.started) == (EndReason.EXIT, 3, True)
    content, *namespaces = ground.output().splitlines()
    assert content == "content"
    seen = {line.partition(":[")[0]: line.partition("[")[2][:-1] for line in namespaces}
    for name in procfs.NAMESPACES:
        assert facts[f"ns.{name}"] == seen[name]
        assert int(seen[name]) != ground.node.host_namespaces[name]


def test_the_hosts_network_is_shared_when_asked_for(ground: Ground) -> None:
    _, facts = asyncio.run(ground.run(order(network=Network.HOST)))
    assert int(facts["ns.net"]) == ground.node.host_namespaces["net"]
    assert facts["ns.shared"] == "net"


def test_a_build_is_root_of_its_user_namespace_only(ground: Ground) -> None:
    job = order(profile=Profile.BUILD, command="sh", args=("-c", "id -u; touch f; chown 7:8 f; stat -c %u:%g f"))
    record, facts = asyncio.run(ground.run(job))
    assert (record.exit_code, ground.output()) == (0, "0\n7:8\n")
    assert facts["Uid"].split()[0] != "0"
    assert facts["CapEff"] == "00000000800000db"


@pytest.mark.parametrize(
    ("job", "change", "named"),
    [
        (order(), {"flags": LaunchFlag.OOM_EVENT}, "net namespace is the node's"),
        (order(network=Network.HOST), {"flags": LaunchFlag.OOM_EVENT | LaunchFlag.NEW_NETWORK},
         "net namespace is not the node's"),
        (order(), {"profile": Profile.BUILD}, "CapEff is 00000000800000db"),
        (order(), {"uid": 999, "workdir": "/"}, "Uid is "),
        (order(), {"gid": 0}, "Gid is "),
    ],
)  # fmt: skip
def test_a_launch_that_is_not_what_was_ordered_never_runs(
    ground: Ground, job: Order, change: dict[str, Any], named: str
) -> None:
    job = replace(job, command="sh", args=("-c", "echo ran"))
    if ground.node.cgroup_version == 2 and "flags" in change:
        change = {"flags": change["flags"] & ~LaunchFlag.OOM_EVENT}
    with pytest.raises(AttestationFailed, match=named):
        asyncio.run(ground.run(job, **change))
    assert ground.output() == ""


def test_a_limit_changed_behind_our_back_is_noticed(ground: Ground) -> None:
    async def scenario() -> None:
        job = order(command="sh", args=("-c", "echo ran"))
        with ground.resources(job) as resources, ExitStack() as stack:
            spec = launch.launch_spec(job, resources, ground.node).encode()
            with launch.spawn(spec, (), resources, ground.node) as handshake:
                pid, pidfd = await handshake.init()
                stack.callback(os.close, pidfd)
                stack.callback(_end, pidfd)
                command = await handshake.parked()
                expected = launch.expectation(job, resources, ground.node, pid)
                other = replace(expected, limits=replace(LIMITS, max_processes=LIMITS.max_processes + 1))
                with pytest.raises(AttestationFailed, match="limit of processes is 50, not 51"):
                    attest(command, resources.cgroup, other)
                attest(command, resources.cgroup, expected)
            stack.close()

    asyncio.run(scenario())
    assert ground.output() == ""


@pytest.mark.parametrize(
    ("job", "stage"),
    [
        (order(command="no-such-command"), Stage.RESOLVE),
        (order(command="/etc/passwd"), Stage.RESOLVE),
        (order(work_dir="/no/such/directory"), Stage.WORKDIR),
    ],
)
def test_errors_of_jobinit_arrive(ground: Ground, job: Order, stage: Stage) -> None:
    with pytest.raises(LaunchError) as failure:
        asyncio.run(ground.run(job))
    assert failure.value.stage is stage
    assert failure.value.error > 0


def test_jobinit_that_is_no_program(ground: Ground, tmp_path: Path) -> None:
    broken = tmp_path / "jobinit"
    broken.write_text("no program")
    broken.chmod(0o755)
    with pytest.raises(OSError, match="Exec format error"):
        asyncio.run(Ground(ground.directory, ground.machine, replace(ground.node, jobinit=broken)).run(order()))
    with pytest.raises(LaunchError, match="it ended before it said INIT"):
        asyncio.run(
            Ground(ground.directory, ground.machine, replace(ground.node, jobinit=Path("/bin/true"))).run(order())
        )
