"""The directory of a local Joblet: its files, the configuration of its services, the way rnx gets there.

The service sections of the configuration are ours: what `up` needs is put there each time, further keys stay.
Everything else in it (joblet, grpc, logging) is the user's. The file is written again only if something changed.
"""

import hashlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblet.common.errors import AlreadyExists, ConfigError
from rnx.errors import BadUsage
from rnx.local import ports

SERVICES = ("gateway", "executor", "logstore", "runtime")
DEFAULT_PORT = 50051
RENEW_DAYS = 30  # certificates that end within this time are issued again by `up`

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HEADER = """\
# Written by `rnx local up`. joblet, grpc and logging are yours to change; of the four services' sections
# only keys that are not here yet: those that are, `up` keeps as they must be.
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below DIR, which is absolute and without symbolic links: one directory has one name."""

    directory: Path

    @property
    def certs(self) -> Path:
        return self.directory / "certs"

    @property
    def config(self) -> Path:
        return self.directory / "config/joblet-config.yml"

    @property
    def client_config(self) -> Path:
        return self.directory / "rnx-config.yml"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    @property
    def socket(self) -> Path:
        return self.run / "logstore.sock"

    @property
    def cgroup_parent(self) -> str:
        """Tells the cgroups of this directory from those of any other."""
        return f"joblet-local-{self.digest[:8]}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(os.fsencode(self.directory)).hexdigest()

    def pid_file(self, name: str) -> str:
        """`name` is a service or "supervisor"."""
        return str(self.run / f"{name}.pid")

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where each service listens, and its metrics; all at the loopback address."""

    listen: dict[str, int]
    metrics: dict[str, int]


def layout_of(directory: Path) -> Layout:
    """Raises BadUsage for a path that a configuration cannot name."""
    absolute = directory.resolve()
    if any(not char.isprintable() for char in str(absolute)) or "?" in str(absolute):
        raise BadUsage(f"--dir {absolute!s}: characters that cannot stand in a configuration")
    return Layout(absolute)


def choose_ports(layout: Layout, port: int | None) -> Ports:
    """The ports of the last time where they are free, others where not; the public one as asked for.

    Raises AlreadyExists, naming the port and who has it, if the public port is taken.
    """
    kept = read_ports(layout)
    public = port or (kept.listen["gateway"] if kept else DEFAULT_PORT)
    if not ports.is_free(public):
        by = ports.owner(public)
        raise AlreadyExists(
            f"port {public} is already in use", hint=f"by {by}" if by else "choose another one with --port"
        )
    chosen = {("listen", "gateway"): public}
    wanted = [(kind, name) for kind in ("listen", "metrics") for name in SERVICES if (kind, name) not in chosen]
    for kind, name in wanted if kept else ():
        old = getattr(kept, kind)[name]
        if old not in chosen.values() and ports.is_free(old):
            chosen[kind, name] = old
    missing = [which for which in wanted if which not in chosen]
    found = ports.pick(len(missing), int(layout.digest[:8], 16), set(chosen.values()))
    chosen.update(zip(missing, found, strict=True))
    return Ports(
        listen={name: chosen["listen", name] for name in SERVICES},
        metrics={name: chosen["metrics", name] for name in SERVICES},
    )


def read_ports(layout: Layout) -> Ports | None:
    """The ports in the configuration, None if there is none yet. Raises ConfigError for a bad one."""
    if not layout.config.exists():
        return None
    from joblet.common import config
    from joblet.common.yamlschema import split_address

    loaded = config.load(layout.config)
    sections = {name: getattr(loaded, name) for name in SERVICES}
    return Ports(
        listen={name: split_address(section.listen)[1] for name, section in sections.items()},
        metrics={name: split_address(section.metrics_listen)[1] for name, section in sections.items()},
    )


def prepare(layout: Layout, chosen: Ports) -> None:
    """Directories, certificates and both configurations, as far as they are missing or no longer right."""
    from joblet.common import config

    for path in (layout.directory, layout.config.parent, layout.logs, layout.run):
        path.mkdir(parents=True, exist_ok=True)
    for name in ("gateway", "executor", "logstore", "runtime"):
        (layout.state / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    layout.state.chmod(0o700)
    _certificates(layout)
    document = _document(layout)
    wanted = _merged(document, _sections(layout, chosen))
    if wanted != document:
        _write_yaml(layout.config, _HEADER, wanted)
    config.load(layout.config)  # a mistake of the user's is better told here than in four logs
    client = _client_document(chosen.listen["gateway"])
    if not layout.client_config.exists() or _load(layout.client_config) != client:
        _write_yaml(layout.client_config, "# Written by `rnx local up`: rnx --config THIS-FILE ...\n", client)


def node_id() -> str:
    """The first label of the host's name, or "local" where that is no name for a certificate."""
    name = socket.gethostname().partition(".")[0].lower()
    return name if _LABEL.fullmatch(name) else "local"


def _certificates(layout: Layout) -> None:
    """Creates them the first time; later issues again what ends soon, for the same names and by the same CA."""
    from datetime import UTC, datetime, timedelta

    from joblet.common import pki

    bundle = pki.Bundle(layout.certs)
    if not bundle.ca_cert.exists():
        pki.write_bundle(layout.certs, node_id=node_id())
        return
    ca = pki.read_pair(bundle.ca_cert, bundle.ca_key)
    for name in (pki.GATEWAY, pki.NODE, pki.ADMIN_CLIENT, pki.VIEWER_CLIENT, pki.CLIENT):
        found = pki.describe(bundle.cert(name).read_bytes())
        if found.identity.not_after < datetime.now(UTC) + timedelta(days=RENEW_DAYS):
            identity = found.identity
            renewed = pki.issue(ca, identity.common_name, identity.ou, hosts=found.hosts)
            pki.write_pair(renewed, bundle.cert(name), bundle.key(name))


def _sections(layout: Layout, chosen: Ports) -> dict[str, dict[str, Any]]:
    """What the services' sections must say. Paths are relative to the file, so the directory may be moved."""

    def address(kind: dict[str, int], name: str) -> str:
        return f"{ports.LOOPBACK}:{kind[name]}"

    def tls(name: str) -> dict[str, str]:
        certs = "../certs"
        return {"ca": f"{certs}/ca-cert.pem", "cert": f"{certs}/{name}-cert.pem", "key": f"{certs}/{name}-key.pem"}

    sections: dict[str, dict[str, Any]] = {
        name: {
            "listen": address(chosen.listen, name),
            "metricsListen": address(chosen.metrics, name),
            "tls": tls("gateway" if name == "gateway" else "node"),
        }
        for name in SERVICES
    }
    sections["gateway"] |= {
        "database": "sqlite:///../state/gateway/gateway.db",
        "logstoreSocket": "../run/logstore.sock",
        "executorSocket": "../state/executor/executor.sock",
    }
    sections["executor"] |= {
        "gateways": [address(chosen.listen, "gateway")],
        "advertise": address(chosen.listen, "executor"),
        "logstoreAddress": address(chosen.listen, "logstore"),
        "runtimeAddress": address(chosen.listen, "runtime"),
        "logstoreSocket": "../run/logstore.sock",
        "stateDir": "../state/executor",
        "cgroupParent": layout.cgroup_parent,
    }
    sections["logstore"] |= {"directory": "../state/logstore", "socket": "../run/logstore.sock"}
    sections["runtime"]["directory"] = "../state/runtime"
    return sections


def _client_document(port: int) -> dict[str, Any]:
    def node(name: str) -> dict[str, str]:
        return {
            "address": f"{ports.LOOPBACK}:{port}",
            "cert": f"certs/{name}-client-cert.pem",
            "key": f"certs/{name}-client-key.pem",
            "ca": "certs/ca-cert.pem",
        }

    return {"version": "1", "nodes": {"default": node("admin"), "viewer": node("viewer")}}


def _document(layout: Layout) -> dict[str, Any]:
    document = _load(layout.config) if layout.config.exists() else {}
    if not isinstance(document, dict):
        raise ConfigError(["the file: expected a mapping of keys"], source=str(layout.config))
    return document


def _load(path: Path) -> object:
    from joblet.common.yamlschema import load_document

    return load_document(path) or {}


def _merged(document: dict[str, Any], sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {**document, **{name: {**(document.get(name) or {}), **section} for name, section in sections.items()}}


def _write_yaml(path: Path, header: str, document: object) -> None:
    import yaml

    from joblet.common.pki import write_file

    text = header + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    write_file(path, text.encode(), mode=0o644)
