"""The logstore of a local system with other settings, and what it counts."""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import yaml
from local_system import LocalSystem


def _config(system: LocalSystem) -> Path:
    return system.directory / "config/joblet-config.yml"


def set_logstore(system: LocalSystem, **settings: object) -> None:
    """Gives it these keys of its section, and starts it again."""
    document = yaml.safe_load(_config(system).read_text())
    document["logstore"] |= settings
    _config(system).write_text(yaml.safe_dump(document))
    system.kill("logstore")


def logstore_metrics(system: LocalSystem) -> dict[str, float]:
    """By name, summed over labels."""
    address = yaml.safe_load(_config(system).read_text())["logstore"]["metricsListen"]
    with urlopen(f"http://{address}/metrics", timeout=30) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    found: dict[str, float] = {}
    for sample, value in (line.rsplit(" ", 1) for line in lines):
        name = sample.partition("{")[0]
        found[name] = found.get(name, 0.0) + float(value)
    return found
