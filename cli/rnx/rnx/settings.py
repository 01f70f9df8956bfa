"""Which server to call and with which certificates. Each value by itself is taken from the first that has it: flag,
environment, --config FILE, ./rnx-config.yml, ~/.rnx/rnx-config.yml, default.

The configuration file is YAML and strict; `cert`, `key` and `ca` are paths (relative ones start at the file's
directory) or the PEM text itself:

    version: "1"
    nodes:
      default:
        address: localhost:50051
        cert: certs/client-cert.pem
        key: certs/client-key.pem
        ca: certs/ca-cert.pem

Nothing is read but that file: whether the certificates exist and fit is the business of `credentials` and `diagnose`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from joblet.common.errors import ConfigError
from rnx.cli import Flags
from rnx.errors import BadUsage

DEFAULT_SERVER = "localhost:50051"
DEFAULT_FILES = {"cert": "certs/client-cert.pem", "key": "certs/client-key.pem", "ca": "certs/ca-cert.pem"}
DEFAULT_NODE = "default"
CONFIG_NAME = "rnx-config.yml"
VERSIONS = ("1", "3.0")  # 3.0: the files of the first Joblet have the same form

_VARIABLES = {
    "address": "JOBLET_SERVER",
    "cert": "JOBLET_CERT_PATH",
    "key": "JOBLET_KEY_PATH",
    "ca": "JOBLET_CA_PATH",
}
_FLAGS = {"address": "--server", "cert": "--cert", "key": "--key", "ca": "--ca"}
_PEM_MARK = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class Pem:
    """One PEM: a file still to be read, or the text from a configuration.

    `origin` says who named it, as in "it is <origin>": "given with --cert", "the default".
    """

    path: Path | None
    text: str | None
    origin: str

    def __str__(self) -> str:
        return str(self.path) if self.path else f"the PEM {self.origin}"


@dataclass(frozen=True, slots=True)
class Settings:
    address: str  # host:port
    address_origin: str
    cert: Pem
    key: Pem
    ca: Pem


@dataclass(frozen=True, slots=True)
class _Value:
    text: str
    origin: str
    base: Path  # what a relative path starts at


def resolve(flags: Flags, environment: Mapping[str, str], directory: Path, home: Path | None) -> Settings:
    """The settings of one command. `directory` is the working directory, `home` the user's, None if there is none.

    Raises BadUsage for an address that is none and for an unknown node, ConfigError for a bad file.
    """
    node = _node_values(flags, directory, home)
    given = {"address": flags.server, "cert": flags.cert, "key": flags.key, "ca": flags.ca}

    def value(name: str, default: str) -> _Value:
        flag, variable = given[name], environment.get(_VARIABLES[name])
        if flag is not None:
            return _Value(flag, f"given with {_FLAGS[name]}", directory)
        if variable:
            return _Value(variable, f"given with {_VARIABLES[name]}", directory)
        return node.get(name) or _Value(default, "the default", directory)

    address = value("address", DEFAULT_SERVER)
    return Settings(
        address=checked_address(address.text, address.origin),
        address_origin=address.origin,
        **{name: _pem(value(name, default)) for name, default in DEFAULT_FILES.items()},
    )


def current(flags: Flags) -> Settings:
    """The settings of this process's command line and environment."""
    try:
        home = Path.home()
    except RuntimeError:  # no HOME and no entry for the user
        home = None
    return resolve(flags, os.environ, Path.cwd(), home)


def checked_address(address: str, origin: str) -> str:
    """`address` if it is host:port, an IPv6 host in brackets; raises BadUsage, which says that it was `origin`."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    good_host = bool(host.strip("[]")) and (bracketed or ":" not in host) and not set("/ @") & set(address)
    if not colon or not good_host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadUsage(f'expected a server as host:port such as "{DEFAULT_SERVER}", got "{address}" ({origin})')
    return address


def _pem(value: _Value) -> Pem:
    if _PEM_MARK in value.text:
        return Pem(None, value.text, value.origin)
    return Pem(value.base / Path(value.text).expanduser(), None, value.origin)


def _node_values(flags: Flags, directory: Path, home: Path | None) -> dict[str, _Value]:
    file = _config_file(flags, directory, home)
    if file is None:
        if flags.node is not None:
            raise BadUsage(
                f"--node {flags.node}: there is no configuration file",
                hint=f"give one with --config, or write {CONFIG_NAME}",
            )
        return {}
    nodes = read_nodes(file)
    name = flags.node or (DEFAULT_NODE if DEFAULT_NODE in nodes or len(nodes) != 1 else next(iter(nodes)))
    if name not in nodes:
        hint = f"--node takes one of: {', '.join(nodes)}"
        raise BadUsage(f'no node "{name}" in {file}', hint=hint)
    origin = f"given in {file} for node {name}"
    return {key: _Value(text, origin, file.absolute().parent) for key, text in nodes[name].items()}


def _config_file(flags: Flags, directory: Path, home: Path | None) -> Path | None:
    if flags.config is not None:
        return directory / flags.config
    places = [directory / CONFIG_NAME, *([home / ".rnx" / CONFIG_NAME] if home else [])]
    return next((place for place in places if place.is_file()), None)


def read_nodes(file: Path) -> dict[str, dict[str, str]]:
    """node -> {address, cert, key, ca}, those that are given. Raises ConfigError with every problem of the file."""
    from joblet.common.yamlschema import load_document

    document = load_document(file)
    problems: list[str] = []
    nodes: dict[str, dict[str, str]] = {}
    if not isinstance(document, dict):
        raise ConfigError(["the file: expected a mapping with nodes"], source=str(file))
    for key in document:
        if key not in ("version", "nodes"):
            problems.append(f"{key}: unknown key (allowed: version, nodes)")
    version = document.get("version")
    if version is not None and str(version) not in VERSIONS:
        problems.append(f'version: expected "{VERSIONS[0]}", got "{version}"')
    given = document.get("nodes")
    if not isinstance(given, dict) or not given:
        problems.append("nodes: expected a mapping of one or more nodes")
    else:
        nodes = {name: _read_node(name, values, problems) for name, values in given.items()}
    if problems:
        raise ConfigError(problems, source=str(file))
    return nodes


def _read_node(name: str, values: object, problems: list[str]) -> dict[str, str]:
    if not isinstance(values, dict):
        problems.append(f"nodes.{name}: expected a mapping with address, cert, key and ca")
        return {}
    good: dict[str, str] = {}
    for key, value in values.items():
        if key not in _FLAGS:
            problems.append(f"nodes.{name}.{key}: unknown key (allowed: {', '.join(_FLAGS)})")
        elif not isinstance(value, str) or not value.strip():
            problems.append(f"nodes.{name}.{key}: expected a text, got {value!r}")
        else:
            good[key] = value
    return good
