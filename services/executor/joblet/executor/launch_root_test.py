"""Launches with real namespaces and cgroups, one step at a time, without a service around them."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joblet.executor import launch, procfs
from joblet.executor.attest import AttestationFailed, attest
from joblet.executor.exitrecord import EndReason
from joblet.executor.job import Network, Order, Upload
from joblet.executor.jobspec import LaunchFlag, Profile, Stage, UploadKind
from joblet.executor.launch import LaunchError
from joblet.executor.launch_for_tests import Ground, end_init, other_ground, prepared_ground
from joblet.executor.testing import LIMITS, order

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with prepared_ground(tmp_path_factory.mktemp("jbtest-launch")) as made:
        yield made


def test_a_job_is_attested_and_runs(ground: Ground) -> None:
    job = order(
        command="sh", args=("-c", "cat up/load; readlink /proc/self/ns/*; exit 3"),
        uploads=(Upload("up/load", 0o600, b"content\n", UploadKind.FILE, size=8),),
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
                stack.callback(end_init, pidfd)
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
    with other_ground(ground, broken) as other, pytest.raises(OSError, match="Exec format error"):
        asyncio.run(other.run(order()))
    with other_ground(ground, Path("/bin/true")) as other, pytest.raises((LaunchError, BrokenPipeError)):
        asyncio.run(other.run(order()))
