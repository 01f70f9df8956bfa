import json

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from joblet.api import job_pb2 as api
from joblet.common.property_fixture import at_any_pace
from rnx import output


@at_any_pace
@given(st.text())
def test_printable_is_one_line_without_control_characters(text: str) -> None:
    shown = output.printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1


def test_a_terminal_cannot_be_driven_by_a_command() -> None:
    job = api.Job(command="echo", args=["\x1b[2J\x1b]0;owned\x07", "‮gnp.exe", "plain naïve"])
    assert output.command_line(job) == r"echo \x1b[2J\x1b]0;owned\x07 \u202egnp.exe plain naïve"


def test_networks() -> None:
    assert output.network("host") == "host (shared with system)"
    assert output.network("none") == "none (loopback only)"
    assert output.network("blue") == "blue"


def test_every_kind_of_field_as_json() -> None:
    job = api.GetJobStatusRes(
        args=["a"], maxIOBPS=2**40, environment={"B": "2", "A": "1"}, gpuIndices=[3],
        uploads=[api.FileUpload(path="x", content=b"\xff", mode=0o644)],
        attestation=api.Attestation(time=Timestamp(seconds=1705314600), facts={"CapEff": "0"}),
        attempts=[api.JobAttempt(outputBytes=0), api.JobAttempt()],
    )  # fmt: skip
    shown = json.loads(output.as_json(output.as_dict(job)))
    assert shown["maxIOBPS"] == 2**40
    assert list(shown["environment"].items()) == [("A", "1"), ("B", "2")]
    assert shown["gpuIndices"] == [3]
    assert shown["uploads"][0] == {
        "path": "x", "content": "/w==", "mode": 420, "size": 0, "isDirectory": False, "digest": "", "linkTarget": "",
        "mtimeNs": 0,
    }  # fmt: skip
    assert shown["attestation"] == {"time": "2024-01-15T10:30:00Z", "facts": {"CapEff": "0"}}
    assert shown["usage"] is None
    assert [attempt["outputBytes"] for attempt in shown["attempts"]] == [0, None]


def test_detail_names_what_is_known() -> None:
    job = api.GetJobStatusRes(
        timeoutSeconds=3600, maxProcesses=7, workDir="/work", notIsolated=["the network of the host"],
        environment={"A": "1"}, secret_environment={"KEY": "***"},
        uploads=[api.FileUpload(path="x", size=3, mode=0o755)],
        usage=api.Usage(cpuUserSeconds=0.25, wallSeconds=1.5, peakMemoryBytes=3 << 20, ioReadBytes=5),
        attestation=api.Attestation(time=Timestamp(seconds=1705314600), facts={"CapEff": "0"}),
    )  # fmt: skip
    assert list(output.detail(job)) == [
        "Priority: 0",
        "CPUCores: all", "MaxProcesses: 7", "Timeout: 3600s", "WorkDir: /work", "RequestId: ", "Environment: A=1",
        "SecretEnvironment: KEY=***", "Upload: x (3 bytes, mode 0755)", "CPUTime: 0.250s user, 0.000s system",
        "WallTime: 1.500s", "PeakMemory: 3.0 MiB", "IO: 5 bytes read, 0 bytes written", "OOMKills: 0",
        "ContextSwitches: 0 voluntary, 0 involuntary",
        "NotIsolated: the network of the host", "Attested: 2024-01-15T10:30:00Z", "  CapEff: 0",
    ]  # fmt: skip
