"""What deploy/ offers fits what is built: the sample configuration and the systemd units."""

from __future__ import annotations

import configparser
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from joblet.common import config

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "deploy/joblet-config.yml"
UNITS = sorted((REPOSITORY / "deploy/systemd").glob("*.service"))
SERVICES = ("executor", "gateway", "logstore", "runtime")


def unit(path: Path) -> dict[str, str]:
    """The [Service] section; of a key given twice the last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read_string(path.read_text())
    return dict(parser["Service"])


def test_sample_has_the_defaults() -> None:
    assert config.load(SAMPLE) == config.Config()


def test_sample_has_every_key() -> None:
    """Values nobody has to set stand there as comments."""
    written = yaml.safe_load(SAMPLE.read_text())
    commented = set(re.findall(r"^ +# (\w+):", SAMPLE.read_text(), re.MULTILINE))
    defaults = config.Config()
    for section in fields(defaults):
        values = getattr(defaults, section.name)
        keys = {
            re.sub(r"_(\w)", lambda match: match[1].upper(), re.sub(r"(?<!lease)_seconds$", "", field.name))
            for field in fields(values)
        }
        assert keys - commented == set(written[section.name]), section.name
        if "tls" in keys:
            assert set(written[section.name]["tls"]) == {"ca", "cert", "key"}


def test_every_service_has_a_unit() -> None:
    assert [path.stem for path in UNITS] == [f"joblet-{service}" for service in SERVICES]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_unit_starts_a_file_that_is_built(path: Path) -> None:
    service = path.stem.removeprefix("joblet-")
    started = unit(path)["ExecStart"].split()
    assert started[1:] == ["--config", str(config.DEFAULT_PATH)]
    built = (REPOSITORY / f"services/{service}/BUILD").read_text()
    assert f'output_path="{Path(started[0]).name}"' in built


def test_restarting_the_executor_stops_no_job() -> None:
    executor = unit(REPOSITORY / "deploy/systemd/joblet-executor.service")
    assert executor["KillMode"] == "process"
    assert executor["Delegate"] == "yes"
    assert executor["OOMPolicy"] == "continue"
    leaf = re.search(
        r'^EXECUTOR_LEAF = "(.+)"$',
        (REPOSITORY / "services/executor/joblet/executor/cgroup/v2.py").read_text(),
        re.MULTILINE,
    )
    assert leaf
    assert executor["DelegateSubgroup"] == leaf[1]


@pytest.mark.parametrize("service", ["gateway", "logstore", "runtime"])
def test_other_services_have_no_privileges(service: str) -> None:
    settings = unit(REPOSITORY / f"deploy/systemd/joblet-{service}.service")
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["NoNewPrivileges"] == "yes"
    assert settings["ProtectSystem"] == "strict"
