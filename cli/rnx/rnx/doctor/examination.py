"""The checks in their order, on the machine this runs on.

What a check needs of the machine is read here and handed over. A file of the kernel that is not there, or says
something unknown, is a finding of that check and stops no other.
"""

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from joblet.common import config as configuration
from joblet.common.config import Config
from joblet.common.errors import ConfigError, FailedPrecondition
from rnx.doctor import (
    caller,
    certificates,
    cgroups,
    hierarchies,
    kernel,
    network,
    probes,
    resources,
    services,
    syscalls,
)
from rnx.doctor.attempts import attempt
from rnx.doctor.caller import Caller
from rnx.doctor.findings import Finding, failed, ok, warning
from rnx.doctor.resources import MIB, Place

LOCAL_CONFIG: Final = Path("config/joblet-config.yml")  # below the directory of `rnx local`
RUN: Final = Path("/run/joblet")

Check = tuple[str, Callable[[], Finding | Iterable[Finding]]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined: `file` is None when the defaults are, `finding` tells about the configuration itself."""

    config: Config
    file: Path | None
    finding: Finding


def subject(file: Path | None, directory: Path | None) -> Subject:
    """The configuration of --config-file or --dir, else the default file, else the defaults."""
    wanted = (directory / LOCAL_CONFIG if directory else file) or (
        configuration.DEFAULT_PATH if configuration.DEFAULT_PATH.exists() else None
    )
    if wanted is None:
        return Subject(Config(), None, ok("configuration", "none given; the defaults are examined"))
    try:
        return Subject(configuration.load(wanted), wanted.resolve(), ok("configuration", str(wanted)))
    except ConfigError as error:
        cause, cure = "; ".join(error.problems), _cure(wanted, directory)
        return Subject(Config(), None, failed("configuration", f"{wanted} cannot be used", cause=cause, cure=cure))


def _cure(file: Path, directory: Path | None) -> str:
    """Of a configuration that cannot be used."""
    if os.path.isfile(file) and os.access(file, os.R_OK):  # noqa: PTH113 - False, too, where it may not be looked for
        return f"change in {file} what the cause names; deploy/joblet-config.yml has every key with its default"
    if directory is not None:
        return f"`rnx local up --dir {directory}` writes it"
    return (
        "give --config-file the file that this node's services are started with, or --dir the directory of an"
        f" `rnx local`; without either, {configuration.DEFAULT_PATH} is examined if it is there, else the defaults"
    )


def examine(what: Subject) -> Iterator[Finding]:
    """Every finding, as soon as it is there. Raises FailedPrecondition where jobs cannot run at all."""
    system = platform.system()
    if system != "Linux":
        raise FailedPrecondition(f"job execution requires Linux server (current: {system.lower()})")
    return _findings(what)


def _findings(what: Subject) -> Iterator[Finding]:
    yield what.finding
    me = caller.current()
    yield caller.privileges(me)
    for name, check in (*_kernel(what.config, me), *_cgroups(me), *_resources(what.config, me), *_rest(what, me)):
        yield from _safely(name, check)


def _safely(name: str, check: Callable[[], Finding | Iterable[Finding]]) -> Iterator[Finding]:
    try:
        found = check()
        yield from [found] if isinstance(found, Finding) else found
    except (OSError, ValueError, KeyError, IndexError) as error:
        yield warning(
            name,
            f"cannot be looked at: {error}",
            cause="the machine does not show it in the way Linux does",
            cure="look at it by hand; `mount -t proc proc /proc` if /proc is missing",
        )


def _kernel(config: Config, me: Caller) -> Iterator[Check]:
    release = os.uname().release
    own = config.executor
    ids = (own.uid_range_start, own.uid_range_size)
    jobs = config.joblet.max_concurrent_jobs
    state = resources.nearest(own.state_dir)
    yield "kernel", partial(kernel.kernel, release)
    yield "namespaces", partial(kernel.namespaces, me, release)
    yield "user namespaces", partial(kernel.user_namespaces, *ids, jobs, me, release)
    yield "kernel features", partial(kernel.features, me, release)
    yield "idmapped mounts", partial(kernel.idmapped_mounts, state, *ids, me, release)
    yield "overlayfs", lambda: kernel.overlayfs(me, release, _read("/proc/filesystems"), _modules_of(release))
    yield "landlock", lambda: kernel.landlock(attempt(probes.landlock), me, release)
    limit = "/proc/sys/fs/inotify/max_user_"
    yield (
        "inotify",
        lambda: kernel.inotify(_number(f"{limit}instances"), _number(f"{limit}watches")),
    )


def _cgroups(me: Caller) -> Iterator[Check]:
    try:
        found = cgroups.look()
    except OSError:  # no /proc: version says that nothing is mounted
        found = hierarchies.Hierarchies({}, None, frozenset())
    known = _read("/proc/cgroups", missing="")
    yield "cgroup version", partial(cgroups.version, found)
    for name in cgroups.CONTROLLERS:
        yield f"cgroup {name}", partial(cgroups.controller, name, found, known, os.path.exists)
    yield "cgroup groups", partial(cgroups.groups, found, me)
    yield "swap accounting", lambda: cgroups.swap(found, _read("/proc/swaps", missing=""))


def places(config: Config) -> list[Place]:
    """The directories that the services write to."""
    executor, small = config.executor, (MIB, 16 * MIB)
    found = [
        Place("run directory", RUN, "executor.logstoreSocket", *small),
        Place("state directory", executor.state_dir, "executor.stateDir"),
        Place("log directory", config.logstore.directory, "logstore.directory"),
        Place("runtime directory", config.runtime.directory, "runtime.directory"),
    ]
    kind, separator, file = config.gateway.database.partition(":///")
    if kind.startswith("sqlite") and separator:
        found.append(Place("database directory", Path(file.partition("?")[0]).parent, "gateway.database"))
    if executor.logstore_socket.parent != RUN:
        found.append(Place("socket directory", executor.logstore_socket.parent, "executor.logstoreSocket", *small))
    return [replace(place, path=Path(os.path.normpath(place.path))) for place in found]


def _resources(config: Config, me: Caller) -> Iterator[Check]:
    import resource  # not on Windows

    jobs = config.joblet
    for place in places(config):
        yield place.check, partial(resources.directory, place, me)
    yield "memory", lambda: resources.memory(_read("/proc/meminfo"), jobs.default_memory_limit)
    yield "clock", lambda: resources.clock(datetime.now(UTC).year, _synchronized())
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    yield "open files", partial(resources.open_files, files, jobs.max_concurrent_jobs)
    yield (
        "processes",
        lambda: resources.processes(
            _number("/proc/sys/kernel/pid_max"),
            _number("/proc/sys/kernel/threads-max"),
            resources.running_tasks(_read("/proc/loadavg")),
            jobs.max_processes,
        ),
    )


def _rest(what: Subject, me: Caller) -> Iterator[Check]:
    config = what.config
    addresses = {
        f"{service}.{key}": getattr(getattr(config, service), attribute)
        for service in certificates.SERVICES
        for key, attribute in (("listen", "listen"), ("metricsListen", "metrics_listen"))
    }
    yield "ports", partial(services.ports, addresses, services.bind, partial(services.holder, config=what.file))
    yield "jobinit", partial(services.jobinit, config.executor.jobinit, platform.machine())
    if what.file is None:
        yield "certificates", certificates.none_given
    else:
        yield "certificates", partial(certificates.of_config, config, datetime.now(UTC), me)
    yield "ip forwarding", lambda: network.forwarding(_read("/proc/sys/net/ipv4/ip_forward"))
    modules = partial(_read, "/proc/modules", missing="")
    yield "forward chain", lambda: network.forward_chain(network.forward_rules(modules()))


def _synchronized() -> bool | None:
    try:
        return syscalls.clock_state() != syscalls.TIME_ERROR
    except OSError:  # EPERM: containers without CAP_SYS_TIME may not even ask
        return None


def _read(path: str, *, missing: str | None = None) -> str:
    """The file's text; `missing` when there is none, otherwise OSError."""
    try:
        return Path(path).read_text()
    except FileNotFoundError:
        if missing is None:
            raise
        return missing


def _modules_of(release: str) -> str:
    return _read(f"/lib/modules/{release}/modules.dep", missing="")


def _number(path: str) -> int:
    return int(_read(path))
