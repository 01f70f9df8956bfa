"""Exit codes and texts of real processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_SECONDS = 120

PROLOGUE = """
import asyncio, sys
from joblet.common import lifecycle
from joblet.common.errors import ConfigError, StartError

async def serve(config, stop):
    print("ready", flush=True)
    await stop.wait()
    print("stopped", config.joblet.max_processes, flush=True)
"""


def start(body: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + body, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def run(body: str, *arguments: str) -> tuple[int, str, str]:
    return finish(start(body, *arguments))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_with_0(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "c.yml"
    file.write_text("joblet: {maxProcesses: 7}")
    process = start("sys.exit(lifecycle.service('gateway', serve))", "--config", str(file))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert finish(process) == (0, "stopped 7\n", "")


def raising(error: str) -> tuple[int, str, str]:
    return run(f"async def main(stop): raise {error}\nsys.exit(lifecycle.run(main))")


def test_a_named_error_is_a_line_and_1() -> None:
    assert raising("StartError('port taken', hint='use another')") == (1, "", "Error: port taken\nHint: use another\n")


def test_an_error_in_a_task_group_is_shown_like_any_other() -> None:
    body = """
async def fail():
    raise StartError("port taken")
async def main(stop):
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
lifecycle.run(main)
"""
    assert run(body) == (1, "", "Error: port taken\n")


def test_a_configuration_error_is_2() -> None:
    assert raising("ConfigError(['a: wrong'])") == (2, "", "Error: invalid configuration: a: wrong\n")


def test_anything_else_keeps_its_traceback() -> None:
    code, _, err = raising("KeyError('ours')")
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("KeyError: 'ours'\n")


def test_bad_usage_and_bad_files_are_2(tmp_path: Path) -> None:
    body = "sys.exit(lifecycle.service('gateway', serve))"
    assert run(body, "--confg", "x")[0] == 2
    code, out, err = run(body, "--config", str(tmp_path / "none.yml"))
    assert (code, out) == (2, "")
    assert err == f"Error: invalid configuration: cannot read {tmp_path}/none.yml: No such file or directory\n"
    (tmp_path / "c.yml").write_text("joblet: {a: 1, b: 2}")
    code, _, err = run(body, "--config", str(tmp_path / "c.yml"))
    assert code == 2
    assert "joblet.a: unknown key" in err
    assert "joblet.b: unknown key" in err


def test_version() -> None:
    code, out, _ = run("lifecycle.service('gateway', serve)", "--version")
    assert code == 0
    assert out.startswith("joblet-gateway ")
