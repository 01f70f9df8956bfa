"""`rnx local status`: what runs in a directory, where it listens and how it is."""

from dataclasses import dataclass

from rnx.local import ports, processes, ready
from rnx.local.layout import SERVICES, Layout, Ports, read_ports


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """`pid` is None for a service that does not run; `restarts` counts since the supervisor was started."""

    service: str
    pid: int | None
    health: str
    reason: str
    address: str
    metrics: str
    restarts: int
    log: str


@dataclass(frozen=True, slots=True)
class Status:
    directory: str
    supervisor: int | None
    config: str
    services: tuple[ServiceStatus, ...]

    @property
    def serving(self) -> bool:
        return bool(self.services) and all(service.health == ready.SERVING for service in self.services)


def of(layout: Layout) -> Status:
    """Raises ConfigError for a configuration that cannot be read."""
    chosen = read_ports(layout)
    return Status(
        directory=str(layout.directory),
        supervisor=_pid(layout, "supervisor")[0],
        config=str(layout.client_config),
        services=tuple(_service(layout, name, chosen) for name in SERVICES) if chosen else (),
    )


def _service(layout: Layout, name: str, chosen: Ports) -> ServiceStatus:
    pid, words = _pid(layout, name)
    # Somebody else may have got the port of a service that is down.
    state = ready.health(chosen.metrics[name]) if pid is not None else ready.Health(ready.DOWN, "not running")
    return ServiceStatus(
        service=name,
        pid=pid,
        health=state.state,
        reason=state.reason,
        address=f"{ports.LOOPBACK}:{chosen.listen[name]}",
        metrics=f"http://{ports.LOOPBACK}:{chosen.metrics[name]}/metrics",
        restarts=int(words[0]) if words else 0,
        log=str(layout.log(name)),
    )


def _pid(layout: Layout, name: str) -> tuple[int | None, list[str]]:
    found = processes.read(layout.pid_file(name))
    if found is None or not processes.is_alive(found[0]):
        return None, []
    return int(found[0].split()[0]), found[1]
