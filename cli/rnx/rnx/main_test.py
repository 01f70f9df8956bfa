import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rnx import main
from rnx.commands.job import VERBS
from rnx.conftest import Gateway, Rnx, a_job

PYTHONPATH = {"PYTHONPATH": os.pathsep.join(sys.path)}
RNX = [sys.executable, "-m", "rnx"]
# A shell that starts tests in the background has them ignore SIGINT, and what they start inherits that.
WITH_CTRL_C = ["env", "--default-signal=INT"]


def in_a_process(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    environment = {**PYTHONPATH, **variables}
    return subprocess.run([*RNX, *arguments], env=environment, capture_output=True, timeout=120, check=False)


def test_help_names_every_command_and_the_exit_codes(rnx: Rnx) -> None:
    result = rnx("--help")
    assert result.code == 0
    text = result.out.decode()
    for word in ("job", "run", "status", "list", "stop", "log", "local", "certs", "version", "Exit codes", "130"):
        assert word in text
    for flag in (
        '(default "localhost:50051")',
        "--cert FILE",
        "--key FILE",
        "--ca FILE",
        "--config",
        "--node",
        "--json",
    ):
        assert flag in text
    assert "stop-jobs" not in rnx("local", "--help").out.decode(), "what the supervisor uses is not for people"


@pytest.mark.parametrize("verb", ["run", "status", "list", "wait", "stop", "log"])
def test_every_verb_has_help_with_and_without_its_noun(rnx: Rnx, verb: str) -> None:
    short, long = rnx(verb, "--help"), rnx("job", verb, "--help")
    assert (short.code, long.code) == (0, 0)
    assert short.out.replace(f"rnx {verb}".encode(), f"rnx job {verb}".encode(), 1) == long.out


def verbs(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that people see, as its words behind `rnx`."""
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        if not found.hidden:
            yield from verbs(found, (*path, name))


@pytest.mark.parametrize("words", list(verbs(main.app)), ids=" ".join)
def test_every_help_shows_examples(rnx: Rnx, words: tuple[str, ...]) -> None:
    text = rnx(*words, "--help").out.decode()
    _, heading, examples = text.partition("Examples:\n")
    assert heading
    assert examples.split("\n\n")[0].count("rnx ") >= 1


def test_version(rnx: Rnx) -> None:
    assert rnx("--version").out == rnx("version").out
    assert rnx("version").out.startswith(b"rnx 0.")
    assert json.loads(rnx("version", "--json").out).keys() == {"version"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["jobb"], f'unknown command "jobb" (there is {", ".join(main.ENTRIES)})'),
        (["job", "walk"], f'unknown command "walk" (there is {", ".join(VERBS)})'),
        (["run"], "Missing argument 'COMMAND'."),
        (["status"], "Missing argument 'JOB-UUID'."),
        (["run", "--max-cpu=abc", "true"],
         "Invalid value for '--max-cpu': expected a whole number from 0 to 2147483647, got \"abc\""),
        (["run", "--max-memory=-1", "true"],
         "Invalid value for '--max-memory': expected a whole number from 0 to 2147483647, got \"-1\""),
        (["run", "--max-iobps=2147483648", "true"],
         "Invalid value for '--max-iobps': expected a whole number from 0 to 2147483647, got \"2147483648\""),
        (["run", "--timeout=soon", "true"],
         "Invalid value for '--timeout': expected a duration such as \"30s\", \"1h30m\" or \"100ms\", got \"soon\""),
        (["run", "--cpu-cores=2-1", "true"],
         "Invalid value for '--cpu-cores': expected a list of CPUs such as \"0-2,5\", each below 8192, got \"2-1\""),
        (["list", "-o", "xml"], "Invalid value for '--output' / '-o': 'xml' is not one of 'lines', 'table', 'json'."),
        (["--server=here", "list"],
         'expected a server as host:port such as "localhost:50051", got "here" (given with --server)'),
        (["--node=x", "list"], "--node x: there is no configuration file"),
    ],
)  # fmt: skip
def test_wrong_usage_is_refused_by_name(rnx: Rnx, arguments: list[str], error: str) -> None:
    result = rnx(*arguments)
    assert (result.code, result.out) == (2, b"")
    first, *rest = result.err.splitlines()
    assert first == f"Error: {error}"
    assert all(line.startswith("Hint: ") for line in rest)


@pytest.mark.parametrize(
    "arguments", [["run", "--json", "--max-cpu=x", "true"], ["run", "--max-cpu=x", "--json", "true"],
                  ["--json", "run", "--bogus", "true"], ["--json", "nothing"]],
)  # fmt: skip
def test_wrong_usage_as_json(rnx: Rnx, arguments: list[str]) -> None:
    result = rnx(*arguments)
    assert result.code == 2
    error = json.loads(result.err)
    assert error.keys() == {"code", "message", "details"}
    assert error["code"] == "INVALID_ARGUMENT"


def test_json_behind_the_command_belongs_to_the_command(rnx: Rnx) -> None:
    assert rnx("run", "--max-cpu=x", "true", "--json").err.startswith("Error: ")


def test_global_flags_before_and_after_the_verb(rnx: Rnx, gateway: Gateway) -> None:
    flags = gateway.flags
    for arguments in ((*flags, "job", "list"), ("job", *flags, "list"), ("job", "list", *flags), ("list", *flags),
                      (*flags[:2], "job", *flags[2:3], "list", *flags[3:])):  # fmt: skip
        assert rnx(*arguments).code == 0
    assert rnx("--server=nowhere.invalid:1", "list", *flags).code == 0, "the last one given wins"
    assert rnx(*flags, "list", "--server=nowhere.invalid:1").code == 3


def test_stdout_that_is_closed_or_full(gateway: Gateway) -> None:
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *RNX, "version"], env=PYTHONPATH, capture_output=True, timeout=120, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, b"")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*RNX, "version"], env=PYTHONPATH, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"Error: output: no space left on device\n")


def test_a_reader_that_leaves_is_no_error(gateway: Gateway) -> None:
    gateway.output = bytes(1_000_000)
    script = '"$@" | head -c 10 >/dev/null; exit ${PIPESTATUS[0]}'
    environment = {**PYTHONPATH, "PATH": os.environ["PATH"]}
    for arguments in (["log", "f47a"], ["--help"]):
        command = ["bash", "-c", script, "bash", *RNX, *gateway.flags, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
        heading = b"Logs for job f47a (Press Ctrl+C to exit if streaming):\n" if "log" in arguments else b""
        assert (done.returncode, done.stderr) == (0, heading)


def test_a_reader_that_leaves_a_silent_job_is_noticed(gateway: Gateway) -> None:
    gateway.output = b"first line\n"
    gateway.hold_output = threading.Event()
    command = [*RNX, *gateway.flags, "log", "f47a"]
    try:
        with subprocess.Popen(command, env=PYTHONPATH, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"first line\n"
            process.stdout.close()
            assert process.wait(timeout=120) == 0
            assert process.stderr.read() == b"Logs for job f47a (Press Ctrl+C to exit if streaming):\n"
    finally:
        gateway.hold_output.set()


def test_ctrl_c_stops_following_and_touches_no_job(gateway: Gateway) -> None:
    gateway.output = b"first line\n"
    gateway.hold_output = threading.Event()
    process = subprocess.Popen(
        [*WITH_CTRL_C, *RNX, *gateway.flags, "log", "f47a"],
        env=PYTHONPATH,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first line\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        gateway.hold_output.set()
        process.kill()
        process.wait()
    assert process.returncode == 130
    heading = b"Logs for job f47a (Press Ctrl+C to exit if streaming):\n"
    assert (out, err) == (b"", heading + b"Stopped following; the job is not touched by that.\n")
    assert not [request for request in gateway.requests if type(request).__name__ == "StopJobReq"]


def test_a_failed_handshake_prints_nothing_but_the_error(gateway: Gateway, tmp_path: Path) -> None:
    cert, key = gateway.bundle.cert("admin-client"), gateway.bundle.key("viewer-client")
    done = in_a_process(*gateway.flags_for(cert, key), "list")
    assert done.returncode == 3
    assert [line.split(b":")[0] for line in done.stderr.splitlines()] == [b"Error", b"Hint"]


def test_completion_scripts_are_offered() -> None:
    done = in_a_process(_RNX_COMPLETE="zsh_source")
    assert done.returncode == 0
    assert b"#compdef rnx" in done.stdout


def test_texts_that_a_terminal_cannot_show(gateway: Gateway) -> None:
    gateway.job = a_job(name="naïve ☃")
    done = in_a_process(*gateway.flags, "status", "f47a", PYTHONIOENCODING="latin-1")
    assert b"Name: na\xefve \\u2603\n" in done.stdout
