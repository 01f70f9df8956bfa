import os
import sys
from pathlib import Path

import pytest

from joblet.common.errors import FailedPrecondition
from rnx.conftest import Rnx
from rnx.local import executables

SERVICES = ("gateway", "executor", "logstore", "runtime")


@pytest.mark.parametrize(("system", "name"), [("darwin", "darwin"), ("win32", "windows"), ("freebsd14", "freebsd14")])
def test_other_systems_are_refused_with_the_specifications_text(
    rnx: Rnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, name: str
) -> None:
    monkeypatch.setattr("rnx.local.up.sys.platform", system)
    result = rnx("local", "up", "--dir", "x", "--detach")
    assert (result.code, result.err) == (1, f"Error: job execution requires Linux server (current: {name})\n")
    assert list(tmp_path.iterdir()) == []


def test_only_root_may(rnx: Rnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = rnx("local", "up", "--dir", "x")
    assert (result.code, result.err.splitlines()[0]) == (1, "Error: rnx local up must be run by root")
    assert list(tmp_path.iterdir()) == []


def test_nothing_there_is_nothing_running(rnx: Rnx, tmp_path: Path) -> None:
    down, status = rnx("local", "down", "--dir", "x"), rnx("local", "status", "--dir", "x")
    assert (down.code, down.out.decode()) == (0, f"Nothing is running in {tmp_path}/x; the data stays there.\n")
    assert (status.code, status.out.decode()) == (1, f"There is no Joblet in {tmp_path}/x\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["up"], ["up", "--dir", "x", "--port", "0"], ["up", "--dir", "x", "--port", "70000"], ["down"],
                  ["status", "--dir", "x", "y"], ["sideways"]],
)  # fmt: skip
def test_wrong_usage(rnx: Rnx, arguments: list[str]) -> None:
    result = rnx("local", *arguments)
    assert (result.code, result.err[:7]) == (2, "Error: ")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No service beside rnx, on PATH or as a package; `tmp_path/bin` is where rnx is said to be."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin/rnx")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("PEX", raising=False)
    monkeypatch.setattr(executables, "_importable", lambda module: False)
    return tmp_path


def put(file: Path) -> str:
    file.parent.mkdir(exist_ok=True)
    file.touch(mode=0o755)
    return str(file)


def test_services_that_are_nowhere_are_named(nowhere: Path) -> None:
    put(nowhere / "bin/joblet-gateway")
    with pytest.raises(FailedPrecondition, match="^cannot find joblet-executor, joblet-logstore, joblet-runtime$"):
        executables.find()


def test_beside_rnx_comes_before_path_before_packages(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executables, "_importable", lambda module: True)
    assert executables.find() == {name: [sys.executable, "-m", f"joblet.{name}"] for name in SERVICES}
    on_path = {name: [put(nowhere / f"path/joblet-{name}")] for name in SERVICES}
    assert executables.find() == on_path
    pex = {name: [put(nowhere / f"bin/joblet-{name}.pex")] for name in SERVICES}
    assert executables.find() == pex
    beside = {name: [put(nowhere / f"bin/joblet-{name}")] for name in SERVICES}
    assert executables.find() == beside


def test_inside_a_pex_beside_means_the_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pex = {name: [put(nowhere / f"dist/joblet-{name}.pex")] for name in SERVICES}
    monkeypatch.setenv("PEX", str(nowhere / "dist/rnx.pex"))
    assert executables.find() == pex


def test_what_is_not_executable_is_passed_over(nowhere: Path) -> None:
    for name in SERVICES:
        put(nowhere / f"path/joblet-{name}")
    (nowhere / "bin/joblet-gateway").touch(mode=0o644)
    assert executables.find()["gateway"] == [str(nowhere / "path/joblet-gateway")]
    assert os.access(nowhere / "path/joblet-gateway", os.X_OK)
