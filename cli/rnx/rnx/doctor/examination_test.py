import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from joblet.common.errors import FailedPrecondition
from rnx.conftest import Rnx
from rnx.doctor import examination
from rnx.doctor.findings import Finding, Status
from rnx.main import ENTRIES


@pytest.mark.parametrize(("system", "shown"), [("Darwin", "darwin"), ("Windows", "windows")])
def test_elsewhere_than_on_linux(rnx: Rnx, monkeypatch: pytest.MonkeyPatch, system: str, shown: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    result = rnx("doctor")
    assert (result.code, result.out) == (1, b"")
    assert result.err == f"Error: job execution requires Linux server (current: {shown})\n"
    answer = json.loads(rnx("doctor", "--json").err)
    assert answer["message"] == f"job execution requires Linux server (current: {shown})"


def test_nothing_is_looked_at_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(FailedPrecondition):
        examination.examine(examination.subject(None, None))


def test_both_ways_to_a_configuration_exclude_each_other(rnx: Rnx) -> None:
    result = rnx("doctor", "--dir=x", "--config-file=y")
    assert (result.code, "exclude each other" in result.err) == (2, True)


def test_the_directory_of_a_local_joblet(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    file = tmp_path / "config/joblet-config.yml"
    file.write_text('gateway: {listen: "127.0.0.1:1234", database: "sqlite:///../state/gateway/gateway.db"}')
    found = examination.subject(None, tmp_path)
    assert (found.file, found.config.gateway.listen) == (file, "127.0.0.1:1234")
    assert found.finding == Finding("configuration", Status.OK, str(file))
    database = next(place for place in examination.places(found.config) if place.check == "database directory")
    assert database.path == tmp_path / "state/gateway"


def test_a_directory_without_a_local_joblet(tmp_path: Path) -> None:
    finding = examination.subject(None, tmp_path).finding
    assert (finding.status, finding.cure) == (Status.FAILED, f"`rnx local up --dir {tmp_path}` writes it")


def test_a_bad_configuration_is_a_finding_with_every_fault(tmp_path: Path) -> None:
    file = tmp_path / "bad.yml"
    file.write_text("gateway: {listen: nonsense}\nexecutor: {stateDri: /x}\n")
    found = examination.subject(file, None)
    assert (found.file, found.finding.status) == (None, Status.FAILED)
    assert "gateway.listen" in found.finding.cause
    assert "executor.stateDri" in found.finding.cause
    assert found.finding.cure.startswith(f"change in {file} what the cause names; ")


@pytest.mark.parametrize("name", ["absent.yml", ".", "file/below.yml"])
def test_a_configuration_that_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    finding = examination.subject(tmp_path / name, None).finding
    assert (finding.status, finding.found) == (Status.FAILED, f"{tmp_path / name} cannot be used")
    assert finding.cure.startswith("give --config-file the file that this node's services are started with, or --dir ")


def test_the_directories_of_the_configuration_are_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text(
        "executor: {stateDir: a, logstoreSocket: run/x.sock}\nlogstore: {directory: b, socket: run/x.sock}\n"
        'runtime: {directory: c}\ngateway: {database: "postgresql://host/name"}\n'
    )
    places = {place.check: place.path for place in examination.places(examination.subject(file, None).config)}
    assert places == {
        "run directory": Path("/run/joblet"),
        "state directory": tmp_path / "a",
        "log directory": tmp_path / "b",
        "runtime directory": tmp_path / "c",
        "socket directory": tmp_path / "run",
    }


def test_help_loads_nothing_of_it() -> None:
    program = "import sys; from rnx import main; main.run(['doctor', '--help']); print('|', *sys.modules)"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    loaded = done.stdout.rpartition("|")[2].split()
    assert "rnx.commands.doctor" in loaded
    assert not [
        name for name in loaded if name.startswith(("rnx.doctor", "joblet.common.config", "ctypes", "google", "yaml"))
    ]
    assert "doctor" in ENTRIES
