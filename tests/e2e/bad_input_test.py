"""What nobody should send: every row is refused by name, with what is allowed instead, and starts nothing.

docs/bad-input.md is written from a run: `.venv/bin/python tests/e2e/bad_input_test.py > docs/bad-input.md` (as root).
`says` are the words that must stand in the refusal: the field or flag, and what it may be.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from local_system import LocalSystem, local_system, wait_for
from vitals import channel

from joblet.api import job_pb2, job_pb2_grpc
from joblet.api.job_pb2 import FileUpload, RunJobReq
from joblet.common import metadata

pytestmark = pytest.mark.root

UNKNOWN = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
CALL_SECONDS = 120.0
ARGUMENT_LIMIT = 131071  # MAX_ARG_STRLEN less the NUL, execve(2)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Rnx:
    """An rnx command line and the exit code it must end with. `shown` replaces it in the table where it is long."""

    arguments: tuple[str, ...]
    code: int
    says: tuple[str, ...]
    shown: str = ""

    @property
    def title(self) -> str:
        return self.shown or "rnx " + " ".join(argument if argument else "''" for argument in self.arguments)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a generated stub and the gRPC code it must end with."""

    title: str
    request: Any = field(repr=False)
    code: str
    says: tuple[str, ...]
    method: str = "RunJob"


def run(*flags: str, code: int = 2, says: tuple[str, ...]) -> Rnx:
    """`rnx run FLAGS true`."""
    return Rnx(("run", *flags, "true"), code, says)


def job(title: str, *says: str, code: str = "INVALID_ARGUMENT", **fields: Any) -> Call:
    """RunJob of `true` with `fields`."""
    return job_with(fields, title, *says, code=code)


def job_with(fields: Mapping[str, Any], title: str, *says: str, code: str = "INVALID_ARGUMENT") -> Call:
    """The same for a field whose name varies."""
    return Call(f"RunJob {title}", RunJobReq(**{"command": "true", **fields}), code, says)


def upload(title: str, *says: str, files: list[FileUpload]) -> Call:
    """RunJob of `true` with these uploads."""
    return job(f"uploads {title}", "uploads", *says, uploads=files)


WHOLE_NUMBER = "expected a whole number from 0 to 2147483647"
CPU_LIST = 'expected a list of CPUs such as "0-2,5"'
DANGEROUS = "command contains dangerous characters"

BY_RNX = [
    *(
        run(f"{flag}={value}", says=(flag, WHOLE_NUMBER))
        for flag in ("--max-cpu", "--max-memory", "--max-iobps", "--max-processes")
        for value in ("abc", "-1", "1.5", "2147483648", "")
    ),
    run("--max-cpu=1000000", code=1, says=("maxCPU exceeds system limits", "this node has")),
    run("--max-memory=2000000000", code=1, says=("maxMemory exceeds system limits", "this node has")),
    run("--cpu-cores=999", code=1, says=("cpuCores exceeds system limits", "this node has the cores")),
    run("--max-processes=2147483647", code=1, says=("maxProcesses exceeds system limits", "this node has")),
    *(run(f"--cpu-cores={cores}", says=("--cpu-cores", CPU_LIST)) for cores in ("a", "3-1", "0-", "", "0,,1", "9999")),
    *(run(f"--timeout={time}", says=("--timeout", "expected")) for time in ("-5s", "0", "abc", "100ms", "999999999h")),
    run("--timeout=1000h", code=1, says=("timeoutSeconds exceeds system limits", "3600 s")),
    *(run(f"--schedule={time}", says=("--schedule", "expected a time")) for time in ("soon", "-5m", "", "25:00")),
    run("--schedule=2020-01-01", code=1, says=("schedule", "is in the past")),
    *(run(f"--priority={n}", says=("--priority", "from -1000 to 1000")) for n in ("1001", "-1001", "x", "")),
    run("--retries=-1", says=("--retries", WHOLE_NUMBER)),
    run("--retries=101", code=1, says=("retry", "maxRetries: expected a number from 0 to 100")),
    run("--retry-backoff=5s", says=("--retry-backoff goes with --retries",)),
    *(run("--retries=1", f"--no-retry-on={c}", says=("--no-retry-on", "from 1 to 255")) for c in ("0", "256", "a", "")),
    run("--network=jbtest", code=1, says=("network", '"jbtest"', "host and none")),
    *(run(f"{flag}=1", says=("No such option", flag)) for flag in ("--gpu", "--runtime", "--volume")),
    run("--env", "=x", says=("--env", "expected NAME=VALUE")),
    run("--env", "", says=("--env", "expected NAME=VALUE")),
    run("--env", "A B=1", code=1, says=("environment", '"A B"', "letters, digits")),
    run("--env", "1A=1", code=1, says=("environment", '"1A"', "letters, digits")),
    run("--env", "JBTEST_ABSENT", says=("--env", "--env JBTEST_ABSENT=VALUE")),
    run("--secret-env", "=x", says=("--secret-env", "expected NAME=VALUE")),
    run("--secret-env", "1A=1", code=1, says=("secretEnvironment", '"1A"', "letters, digits")),
    run("--env", "A=1", "--secret-env", "A=1", says=("A is given as --env and as --secret-env",)),
    run("--env-file=/nonexistent/jbtest", says=("--env-file /nonexistent/jbtest", "no such file")),
    run("--label", "team", says=("--label", "expected NAME=VALUE")),
    run("--label", "=a", says=("--label", "expected NAME=VALUE")),
    run("--label", "team=a", "-l", "team=b", says=("--label team", "given twice")),
    run("--name=" + "x" * 256, code=1, says=("invalid name", "255 bytes")),
    run("--stop-on-interrupt", says=("--stop-on-interrupt goes with --wait or --follow",)),
    run("--workdir=relative", code=1, says=("workDir", "not an absolute path")),
    run("--upload=/nonexistent/jbtest", says=("--upload", "no such file")),
    run("--upload=/etc", says=("--upload", "not a regular file")),
    run("--upload=/etc/hostname", "--upload=/proc/sys/kernel/hostname", says=("--upload", "already a file")),
    run("--request-id=a b", code=1, says=("requestId", "at most 128 printable ASCII characters")),
    Rnx(("run",), 2, ("Missing argument", "COMMAND")),
    Rnx(("run", ""), 1, ("command is empty",)),
    Rnx(("run", "ls;id"), 1, (DANGEROUS,)),
    Rnx(("run", "ls\nid"), 1, (DANGEROUS,), shown="rnx run 'ls\\nid'"),
    Rnx(("run", "true", *["x" * 1023] * 1024), 2, ("too large", "524288 bytes"), "rnx run true <1 MB of arguments>"),
    Rnx(("job", "status", UNKNOWN), 4, ("job not found", UNKNOWN)),
    Rnx(("job", "stop", UNKNOWN), 4, ("job not found", UNKNOWN)),
    Rnx(("job", "log", UNKNOWN), 4, ("job not found", UNKNOWN)),
    Rnx(("job", "delete", UNKNOWN), 4, ("job not found", UNKNOWN)),
    Rnx(("job", "delete"), 2, ("Missing argument", "JOB-UUID")),
    Rnx(("job", "wait", UNKNOWN), 125, ("job not found", UNKNOWN)),
    Rnx(("job", "wait", "--timeout=0", UNKNOWN), 125, ("--timeout", "expected")),
    Rnx(("job", "list", "--status=LOST"), 2, ("--status", "'RUNNING'")),
    Rnx(("job", "list", "--label=x"), 2, ("--label", "expected NAME=VALUE")),
    Rnx(("job", "list", "--since=soon"), 2, ("--since", "expected")),
    Rnx(("job", "list", "--limit=-1"), 2, ("--limit", WHOLE_NUMBER)),
    Rnx(("job", "status", "f47"), 4, ("job not found: f47", "at least 4")),
    Rnx(("job", "status", "../../etc"), 4, ("job not found",)),
    Rnx(("job", "status", ""), 1, ("no job id given",)),
    Rnx(("job", "frobnicate"), 2, ("frobnicate", "there is run")),
]  # fmt: skip

BY_STUB = [
    *(
        job_with({name: -1}, f"{name}=-1", f"{name} must not be negative")
        for name in ("maxCPU", "maxMemory", "maxIOBPS", "maxProcesses", "timeoutSeconds")
    ),
    job("maxCPU=2147483647", "maxCPU exceeds system limits", maxCPU=2**31 - 1),
    job("maxMemory=2147483647", "maxMemory exceeds system limits", maxMemory=2**31 - 1),
    job("timeoutSeconds=2147483647", "timeoutSeconds exceeds system limits", timeoutSeconds=2**31 - 1),
    *(job(f'cpuCores="{cores}"', "cpuCores", CPU_LIST, cpuCores=cores) for cores in ("a", "3-1", "0-", "-1", " ")),
    job('network="jbtest"', "network", "host and none", code="UNIMPLEMENTED", network="jbtest"),
    job('runtime="python:3.11"', "runtime", code="UNIMPLEMENTED", runtime="python:3.11"),
    job('volumes=["data"]', "volumes", code="UNIMPLEMENTED", volumes=["data"]),
    job("gpuCount=1", "gpuCount", code="UNIMPLEMENTED", gpuCount=1),
    job("gpuMemoryMB=-1", "gpuMemoryMB", code="UNIMPLEMENTED", gpuMemoryMB=-1),
    job('schedule="2020-01-01T00:00:00Z"', "schedule", "is in the past", schedule="2020-01-01T00:00:00Z"),
    job('schedule="2030-01-01T00:00:00"', "schedule", "has no time zone", schedule="2030-01-01T00:00:00"),
    job('schedule="tomorrow"', "schedule", "expected an instant such as", schedule="tomorrow"),
    job('schedule="-1h"', "schedule", "expected an instant such as", schedule="-1h"),
    job('schedule="99999d"', "schedule", "more than ten years ahead", schedule="99999d"),
    job("retry.maxRetries=101", "retry", "maxRetries: expected a number from 0 to 100",
        retry=job_pb2.RetryPolicy(maxRetries=101)),
    job("retry.backoffSeconds=-1", "retry", "backoffSeconds: expected a number from 0 to 3600",
        retry=job_pb2.RetryPolicy(maxRetries=1, backoffSeconds=-1)),
    job("retry.nonRetriableExitCodes=[0]", "retry", "expected a number from 1 to 255",
        retry=job_pb2.RetryPolicy(maxRetries=1, nonRetriableExitCodes=[0])),
    job("priority=1001", "priority", "expected a number from -1000 to 1000", priority=1001),
    job('nodeId="jbtest"', "node not found: jbtest", code="NOT_FOUND", nodeId="jbtest"),
    *(
        job_with({where: {name: "x"}}, f'{where} with the name "{name}"', where, "letters, digits")
        for where in ("environment", "secretEnvironment")
        for name in ("", "A=B", "A B", "1A", "-")
    ),
    job("environment with NUL in a value", "environment", "A contains NUL", environment={"A": "x\0"}),
    job("environment with a value over 128 KiB", "environment", str(ARGUMENT_LIMIT), environment={"A": "x" * 131072}),
    job("a variable of Joblet's own", "JOB_ID is set by Joblet", environment={"JOB_ID": "1"}),
    job("a secret variable of Joblet's own", "JOB_ATTEMPT is set by Joblet", secretEnvironment={"JOB_ATTEMPT": "1"}),
    job("the same name in both environments", "A is set in", environment={"A": "1"}, secretEnvironment={"A": "2"}),
    job('command=""', "command is empty", command=""),
    job('command=" "', "command is empty", command=" "),
    *(job(f"command={name + ' inside'}", DANGEROUS, command=f"ls{char}id") for name, char in (
        ("NUL", "\0"), ("newline", "\n"), (";", ";"), ("&", "&"), ("$", "$"), ("backquote", "`"), (">", ">"),
    )),
    Call("RunJob command=<5,000 characters>", RunJobReq(command="x" * 5000), "INVALID_ARGUMENT", ("command", "4095")),
    job("argument with NUL", "args", "argument 2 contains NUL", args=["a", "b\0c"]),
    job("one argument over 128 KiB", "argument 1", str(ARGUMENT_LIMIT), args=["x" * (ARGUMENT_LIMIT + 1)]),
    job("1 MB of arguments", "524288", code="RESOURCE_EXHAUSTED", args=["x" * 1023] * 1024),
    job("a message of 2 MB", "524288", code="RESOURCE_EXHAUSTED",
        uploads=[FileUpload(path="a", content=bytes(2 << 20))]),
    job('workDir="relative"', "workDir", "absolute", workDir="relative"),
    job("workDir with NUL", "workDir", "NUL", workDir="/a\0b"),
    job("name with a newline", "name", "control characters", name="a\nb"),
    job("name of 256 characters", "name", "255 bytes", name="x" * 256),
    job('requestId="a b"', "requestId", "at most 128 printable ASCII characters", requestId="a b"),
    job("requestId of 129 characters", "requestId", "at most 128", requestId="x" * 129),
    job("65 labels", "labels", "64", labels={str(n): "x" for n in range(65)}),
    job("label without a name", "labels", "no name", labels={"": "x"}),
    upload('"../x"', '".."', files=[FileUpload(path="../x")]),
    upload('"a/../../x"', '".."', files=[FileUpload(path="a/../../x")]),
    upload('"/etc/x"', "absolute", files=[FileUpload(path="/etc/x")]),
    upload('""', "no path", files=[FileUpload()]),
    upload("with NUL in the path", "NUL", files=[FileUpload(path="a\0b")]),
    upload('"a//b"', "empty part", files=[FileUpload(path="a//b")]),
    upload('"x" and "x"', "twice", files=[FileUpload(path="x"), FileUpload(path="x")]),
    upload('"d" and "d/x" with a file d', '"d" is a file', files=[FileUpload(path="d"), FileUpload(path="d/x")]),
    upload("with mode 4755", "mode 4755", "permission bits", files=[FileUpload(path="x", mode=0o4755)]),
    upload("of 256 characters", "too long", files=[FileUpload(path="x" * 256)]),
    upload("with a wrong size", "size 7", files=[FileUpload(path="x", content=b"abc", size=7)]),
    Call("GetJobStatus of an unknown id", job_pb2.GetJobStatusReq(uuid=UNKNOWN), "NOT_FOUND",
         ("job not found", UNKNOWN), "GetJobStatus"),
    Call('GetJobStatus uuid=""', job_pb2.GetJobStatusReq(), "INVALID_ARGUMENT", ("no job id given",), "GetJobStatus"),
    Call('StopJob uuid="f47"', job_pb2.StopJobReq(uuid="f47"), "NOT_FOUND", ("job not found: f47", "at least 4"),
         "StopJob"),
    Call('StopJob uuid="%"', job_pb2.StopJobReq(uuid="%"), "NOT_FOUND", ("job not found: %",), "StopJob"),
    Call("WaitJob timeoutSeconds=-1", job_pb2.WaitJobReq(uuid=UNKNOWN, timeoutSeconds=-1), "INVALID_ARGUMENT",
         ("timeoutSeconds must not be negative",), "WaitJob"),
    Call("ListJobs pageSize=-1", job_pb2.EmptyRequest(pageSize=-1), "INVALID_ARGUMENT", ("pageSize",), "ListJobs"),
    Call('ListJobs pageToken="x"', job_pb2.EmptyRequest(pageToken="x"), "INVALID_ARGUMENT", ("pageToken", "expected"),
         "ListJobs"),
    Call('ListJobs statuses="LOST"', job_pb2.EmptyRequest(statuses=["LOST"]), "INVALID_ARGUMENT",
         ("statuses", "expected one of"), "ListJobs"),
    Call('ListJobs labels={"": "x"}', job_pb2.EmptyRequest(labels={"": "x"}), "INVALID_ARGUMENT",
         ("labels", "no name"), "ListJobs"),
    Call('ListJobs idPrefix="%"', job_pb2.EmptyRequest(idPrefix="%"), "INVALID_ARGUMENT", ("idPrefix", "expected"),
         "ListJobs"),
    Call('ListJobs newestFirst pageToken="1"', job_pb2.EmptyRequest(newestFirst=True, pageToken="1"),
         "INVALID_ARGUMENT", ("pageToken", "expected"), "ListJobs"),
    Call("DeleteJob of an unknown id", job_pb2.DeleteJobReq(uuid=UNKNOWN), "NOT_FOUND", ("job not found", UNKNOWN),
         "DeleteJob"),
    Call('DeleteJob uuid=""', job_pb2.DeleteJobReq(), "INVALID_ARGUMENT", ("no job id given",), "DeleteJob"),
]  # fmt: skip


@pytest.fixture(scope="module")
def stub(joblet: LocalSystem) -> Iterator[job_pb2_grpc.JobServiceStub]:
    with channel(joblet) as opened:
        yield job_pb2_grpc.JobServiceStub(opened)


def job_ids(stub: job_pb2_grpc.JobServiceStub) -> list[str]:
    """Every job there is, oldest first."""
    return [job.id for job in stub.ListJobs(job_pb2.EmptyRequest(), timeout=CALL_SECONDS).jobs]


def by_rnx(system: LocalSystem, row: Rnx) -> tuple[int, str]:
    """Exit code and what is on stderr."""
    done = system.rnx(*row.arguments)
    assert done.stdout == b"", "a refused command prints nothing but its error"
    return done.returncode, done.stderr.decode().strip()


def by_stub(stub: job_pb2_grpc.JobServiceStub, row: Call) -> tuple[str, str]:
    """gRPC code, and its text with the hint that travels beside it."""
    try:
        getattr(stub, row.method)(row.request, timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        trailing: Any = error.trailing_metadata() or ()
        hint = metadata.decode(dict(trailing).get(metadata.HINT))
        return error.code().name, (error.details() or "") + (f"\nHint: {hint}" if hint else "")
    return "OK", ""


def check(code: int | str, text: str, row: Rnx | Call) -> None:
    """Code and words as the row wants them, and no traceback."""
    assert code == row.code, text
    for words in row.says:
        assert words.lower() in text.lower(), text
    assert "Traceback" not in text
    assert len(text) < 2048


@pytest.mark.parametrize("row", BY_RNX, ids=lambda row: row.title)
def test_rnx(joblet: LocalSystem, stub: job_pb2_grpc.JobServiceStub, row: Rnx) -> None:
    before = job_ids(stub)
    check(*by_rnx(joblet, row), row)
    assert job_ids(stub) == before


@pytest.mark.parametrize("row", BY_STUB, ids=lambda row: row.title)
def test_stub(stub: job_pb2_grpc.JobServiceStub, row: Call) -> None:
    before = job_ids(stub)
    check(*by_stub(stub, row), row)
    assert job_ids(stub) == before


def test_a_request_id_used_twice_for_different_jobs(stub: job_pb2_grpc.JobServiceStub) -> None:
    first = stub.RunJob(RunJobReq(command="true", requestId="jbtest-once"), timeout=CALL_SECONDS).job
    before = job_ids(stub)
    code, text = by_stub(stub, job("with a used requestId", args=["x"], requestId="jbtest-once"))
    assert (code, text) == ("ALREADY_EXISTS", f"requestId jbtest-once was used for a different job: {first.uuid}")
    assert job_ids(stub) == before


def test_bytes_that_are_no_message(joblet: LocalSystem, stub: job_pb2_grpc.JobServiceStub) -> None:
    before = job_ids(stub)
    with channel(joblet) as opened:
        raw: Any = opened.unary_unary("/joblet.JobService/RunJob")
        for garbage in (b"\xff" * 64, b"\x0a\x02\xff\xfe"):  # no protobuf; a command that is not UTF-8
            with pytest.raises(grpc.RpcError) as refused:
                raw(garbage, timeout=CALL_SECONDS)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert refused.value.details() == "the bytes sent are no request of RunJob"
    assert job_ids(stub) == before


def twin(system: LocalSystem, job_id: str) -> str:
    """A second row in the store whose id differs from `job_id` in its last digit only; chance needs 65,536 jobs."""
    other = job_id[:-1] + ("0" if job_id[-1] != "0" else "1")
    path = system.directory / "state/gateway/gateway.db"
    with contextlib.closing(sqlite3.connect(path, timeout=CALL_SECONDS)) as store, store:
        columns = [row[1] for row in store.execute("PRAGMA table_info(jobs)")]
        row = dict(zip(columns, store.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone(), strict=True))
        row |= {"id": other, "request_id": None}
        del row["sequence"]
        store.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
    return other


def ambiguous(system: LocalSystem) -> tuple[str, tuple[str, str]]:
    """A prefix of two ended jobs, and both ids."""
    job_id = system.run("true")
    wait_for("the end", lambda: system.status(job_id)["Status"] == "COMPLETED")
    both = sorted((job_id, twin(system, job_id)))
    return job_id[:8], (both[0], both[1])


def test_an_ambiguous_prefix_names_its_candidates(joblet: LocalSystem) -> None:
    prefix, (one, other) = ambiguous(joblet)
    for verb in ("status", "stop", "cancel", "log", "wait", "delete"):
        done = joblet.rnx("job", verb, prefix)
        assert done.returncode == (125 if verb == "wait" else 1)
        assert done.stderr.decode().startswith(f"Error: job id {prefix} is ambiguous: {one}, {other}\n")


def main() -> None:
    """Print the table: what each row of this file is answered by a system of its own."""
    with tempfile.TemporaryDirectory(prefix="jbtest-") as name, local_system(Path(name) / "jbtest") as system:
        print("# Bad input and its answers\n")
        print(
            "Written from a run of `tests/e2e/bad_input_test.py`, which checks every row and that nothing was started."
        )
        print("\n## rnx\n\nExit codes: 1 refused by the server, 2 refused by rnx itself, 4 not found.\n")
        print("| input | exit code | stderr |\n|---|---:|---|")
        prefix, _ = ambiguous(system)
        for row in (
            *BY_RNX,
            Rnx(("job", "status", prefix), 1, (), "rnx job status <8 characters two ids begin with>"),
        ):
            print(_line(row.title, *by_rnx(system, row)))
        print("\n## API\n\n| call | code | text |\n|---|---|---|")
        with channel(system) as opened:
            stub = job_pb2_grpc.JobServiceStub(opened)
            for call in BY_STUB:
                print(_line(call.title, *by_stub(stub, call)))


def _line(title: str, code: int | str, text: str) -> str:
    shown = _ID.sub("<id>", text).replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")
    return f"| `{title.replace('|', chr(92) + '|')}` | {code} | {shown} |"


if __name__ == "__main__":
    main()
