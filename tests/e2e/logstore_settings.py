"""The logstore of a local system with other settings, and what it counts."""

from __future__ import annotations

from urllib.request import urlopen

import yaml
from local_system import LocalSystem
from service_settings import config_path, set_service


def set_logstore(system: LocalSystem, **settings: object) -> None:
    """Gives it these keys of its section, and starts it again."""
    set_service(system, "logstore", **settings)


def logstore_metrics(system: LocalSystem) -> dict[str, float]:
    """By name, summed over labels."""
    address = yaml.safe_load(config_path(system).read_text())["logstore"]["metricsListen"]
    with urlopen(f"http://{address}/metrics", timeout=120) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    found: dict[str, float] = {}
    for sample, value in (line.rsplit(" ", 1) for line in lines):
        name = sample.partition("{")[0]
        found[name] = found.get(name, 0.0) + float(value)
    return found
