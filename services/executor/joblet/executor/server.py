"""The executor's life on a prepared machine: adopt what runs, serve, register, and leave without stopping a job."""

import asyncio
import gc
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Final

from grpc_health.v1 import health_pb2

from joblet.api.internal.executor_pb2_grpc import add_ExecutorServiceServicer_to_server
from joblet.api.internal.registry_pb2 import HeartbeatRequest
from joblet.common import log, metrics
from joblet.common.config import Config
from joblet.common.contents import Contents, Limits
from joblet.common.errors import JobletError
from joblet.common.rpc import RpcServer
from joblet.common.units import MIB, format_cpu_list
from joblet.common.version import VERSION
from joblet.executor import machine as machines
from joblet.executor import procfs, syscalls
from joblet.executor.adopt import adopt_jobs
from joblet.executor.executor import Executor, NoExecutor
from joblet.executor.feed import Feed
from joblet.executor.handlers import ACCESS, SERVICE, JobsOfNode
from joblet.executor.journal import Journal
from joblet.executor.launch import Node, OutputLimits
from joblet.executor.locallines import LocalLines
from joblet.executor.logs import LogStore
from joblet.executor.machine import Machine
from joblet.executor.nursery import Nursery
from joblet.executor.outputs import Outputs
from joblet.executor.registry import beat
from joblet.executor.site import Site
from joblet.executor.statedirs import StateDirectories

SWEEP_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 0.5  # event streams have no end of their own; their readers go on after the last number

_log = log.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was made before grpc was imported. `machine` is the reason when this one cannot run jobs."""

    machine: Machine | JobletError
    journal: Journal
    null: int  # /dev/null


async def run(config: Config, prepared: Prepared, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Raises StartError when an address or a certificate cannot be used."""
    own, ready = config.executor, "starting"
    with ExitStack() as stack:
        probes = metrics.start_http(own.metrics_listen, metrics.REGISTRY, lambda: ready or None)
        stack.callback(probes.stop)
        async with asyncio.TaskGroup() as tasks:
            feed = Feed(prepared.journal)
            contents = _contents(config)
            outputs = Outputs(own.state_dir / "outputs", output_limits(config))
            executor = _executor(config, prepared, feed, contents, outputs, tasks, stack)
            rpc = RpcServer("executor", own.listen, own.tls, config.grpc, ACCESS, internal=True)
            lines = stack.enter_context(closing(LocalLines(own.state_dir)))
            servicer = JobsOfNode(
                executor, prepared.journal, feed, contents, outputs, config.joblet.max_processes, lines
            )
            rpc.add(SERVICE, add_ExecutorServiceServicer_to_server, servicer)
            port = await rpc.start()
            ready = await _tell_readiness(rpc, prepared.machine)
            gc.freeze()  # what is there now stays; collections that look at it again would stall launches
            request = heartbeat(config, port)
            background = [tasks.create_task(_sweep(outputs))]
            background += [tasks.create_task(beat(gateway, config, request)) for gateway in own.gateways]
            _log.info("listening", address=f"{own.listen.rpartition(':')[0]}:{port}", metricsPort=probes.port)
            await stop.wait()
            ready = "stopping"
            for task in background:
                task.cancel()
            await executor.close()
            await rpc.stop(GRACE_SECONDS)
    _log.info("stopped")


async def _sweep(outputs: Outputs) -> None:
    """Until cancelled."""
    while True:
        await asyncio.to_thread(outputs.sweep)
        await asyncio.sleep(SWEEP_SECONDS)


def output_limits(config: Config) -> OutputLimits:
    own = config.executor
    return OutputLimits(
        own.output_max_mb * MIB, own.output_max_files, own.output_timeout_seconds, own.output_total_mb * MIB,
        own.output_age_seconds,
    )  # fmt: skip


def _contents(config: Config) -> Contents:
    own = config.executor
    total_bytes = own.content_total_mb * MIB
    what = ("executor.contentTotalMb", "executor.contentTotalMb")
    return Contents(own.state_dir / "contents", Limits(total_bytes, total_bytes, own.content_age_seconds, what))


def _executor(
    config: Config,
    prepared: Prepared,
    feed: Feed,
    contents: Contents,
    outputs: Outputs,
    tasks: asyncio.TaskGroup,
    stack: ExitStack,
) -> Executor | NoExecutor:
    if isinstance(prepared.machine, JobletError):
        return NoExecutor(prepared.journal, prepared.machine)
    logs = stack.enter_context(closing(LogStore(config.executor.logstore_socket)))
    cleaner = stack.enter_context(ThreadPoolExecutor(1, "cleaner", _yield_to_others))
    machine = prepared.machine
    nursery = stack.enter_context(closing(Nursery(machine.jobinit, machine.template, prepared.null)))
    site = site_of(config, prepared, machine, nursery, feed, logs, cleaner, contents, outputs)
    executor = Executor(site, machines.capacity(config), tasks)
    adopt_jobs(executor, tasks)
    return executor


def _yield_to_others() -> None:
    """Of the calling thread: it gets as much time as before, but takes none from others by waking up (sched(7))."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def site_of(
    config: Config,
    prepared: Prepared,
    machine: Machine,
    nursery: Nursery,
    feed: Feed,
    logs: LogStore,
    cleaner: ThreadPoolExecutor,
    contents: Contents,
    outputs: Outputs,
) -> Site:
    own = config.executor
    node = Node(
        nursery=nursery,
        template=machine.template,
        bound_paths=machine.bound_paths,
        host_namespaces=procfs.own_namespaces(),
        null=prepared.null,
        boot_id=machines.boot_id(),
        cgroup_version=machine.cgroups.version,
        landlock_abi=syscalls.landlock_abi(),
        tmp_bytes=own.tmp_size_mb * MIB,
        work_bytes=own.work_size_mb * MIB,
        grace_seconds=own.stop_grace_seconds,
        log_rate=own.log_rate_limit,
        contents=contents,
        outputs=output_limits(config),
    )
    return Site(
        prepared.journal, feed, machine.cgroups, machine.devices, machine.users, logs, node,
        StateDirectories(own.state_dir), config.joblet.cleanup_timeout_seconds, cleaner, outputs,
    )  # fmt: skip


async def _tell_readiness(rpc: RpcServer, machine: Machine | JobletError) -> str:
    """What is missing for /readyz, in health too; empty when nothing is."""
    if isinstance(machine, Machine):
        return ""
    for service in ("", SERVICE.full_name):
        await rpc.health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
    _log.error("this machine cannot run jobs", error=machine.message, detail=machine.hint or "")
    return machine.message


def heartbeat(config: Config, port: int) -> HeartbeatRequest:
    """What the gateways are told of this node; the node's id is its certificate's."""
    own = config.executor
    return HeartbeatRequest(
        executor_address=own.advertise or f"localhost:{port}",
        logstore_address=own.logstore_address,
        runtime_address=own.runtime_address,
        boot_id=machines.boot_id(),
        cpu_cores=len(machines.cores()),
        memory_bytes=machines.memory_bytes(),
        labels=own.labels,
        version=VERSION,
        system=platform.system().lower(),
        cores=format_cpu_list(machines.cores()),
        max_processes=machines.max_processes(),
        work_bytes=own.work_size_mb * MIB,
        content_bytes=own.content_total_mb * MIB,
    )
