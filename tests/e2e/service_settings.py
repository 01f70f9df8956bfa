"""A service of a local system with other settings."""

from __future__ import annotations

from pathlib import Path

import yaml
from local_system import LocalSystem


def config_path(system: LocalSystem) -> Path:
    return system.directory / "config/joblet-config.yml"


def set_service(system: LocalSystem, service: str, **settings: object) -> None:
    """Gives it these keys of its section, and starts it again."""
    path = config_path(system)
    document = yaml.safe_load(path.read_text())
    document[service] |= settings
    path.write_text(yaml.safe_dump(document))
    system.kill(service)
