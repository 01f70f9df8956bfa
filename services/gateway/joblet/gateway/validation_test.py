"""What a request may not be, one fault at a time."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joblet.api import job_pb2
from joblet.common.errors import InvalidArgument, Unimplemented
from joblet.gateway import validation
from joblet.gateway.validation import check_run_job

KIB = 1024


def request(**fields: Any) -> job_pb2.RunJobReq:
    return job_pb2.RunJobReq(**({"command": "true"} | fields))


def refused(**fields: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        check_run_job(request(**fields))
    return caught.value


def upload(path: str, content: bytes = b"x", **fields: Any) -> job_pb2.FileUpload:
    return job_pb2.FileUpload(path=path, content=content, **fields)


def test_every_field_is_understood_or_refused() -> None:
    fields = {field.name for field in job_pb2.RunJobReq.DESCRIPTOR.fields}
    assert fields == validation.SUPPORTED | set(validation.LATER)
    assert not validation.SUPPORTED & set(validation.LATER)


def test_a_whole_request_is_accepted() -> None:
    check_run_job(
        request(
            args=["a;b|c", "$(x)\n", ""], maxCPU=50, maxMemory=64, maxIOBPS=1000, cpuCores="0-2,5", name="build 7",
            environment={"PATH": "/bin", "A.B-c": "x\ny"}, secretEnvironment={"TOKEN": "s"}, network="none",
            workDir="/work/sub", timeoutSeconds=5, requestId="r-1", labels={"team": "a"}, nodeId="node-1",
            maxProcesses=7,
            uploads=[upload("a/b.py"), upload("a", b"", isDirectory=True, mode=0o750), upload("c", size=1, mode=0o4)],
        )
    )  # fmt: skip


@pytest.mark.parametrize("command", ["", " ", "\t"])
def test_empty_command(command: str) -> None:
    assert refused(command=command).message == "invalid command: command is empty"


@pytest.mark.parametrize("character", list("\0\r\n;&|`$()<>"))
def test_dangerous_command(character: str) -> None:
    assert refused(command=f"ls{character}").message == "invalid command: command contains dangerous characters"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet=st.characters(exclude_characters="".join(validation.DANGEROUS), exclude_categories=["Cs"])))
def test_any_other_character_is_allowed(text: str) -> None:
    check_run_job(request(command=f"x{text}"))


def test_long_command() -> None:
    check_run_job(request(command="x" * 4095))
    assert "longer than 4095 bytes" in refused(command="é" * 2048).message


@pytest.mark.parametrize("field", ["maxCPU", "maxMemory", "maxIOBPS", "timeoutSeconds", "maxProcesses"])
def test_negative_limits_are_named(field: str) -> None:
    error = refused(**{field: -1})
    assert (error.message, error.field) == (f"{field} must not be negative: -1", field)


@pytest.mark.parametrize("cores", ["x", "1-", "3-1", "0,,1", "-1", "9999999"])
def test_cpu_cores(cores: str) -> None:
    error = refused(cpuCores=cores)
    assert error.field == "cpuCores"
    assert error.message.startswith("invalid cpuCores: ")


@pytest.mark.parametrize("field", ["environment", "secretEnvironment"])
@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "A\0", "Ä", "A\n"])
def test_environment_names(field: str, name: str) -> None:
    assert refused(**{field: {name: "value"}}).field == field


def test_environment_values_are_never_shown() -> None:
    error = refused(secretEnvironment={"TOKEN": "hunter2\0"})
    assert error.message == "invalid secretEnvironment: the value of TOKEN contains NUL"
    assert "hunter2" not in refused(secretEnvironment={"TOKEN": "hunter2" * 128 * KIB}).message


def test_a_name_cannot_be_secret_and_not() -> None:
    assert "A is set in environment and" in refused(environment={"A": "1"}, secretEnvironment={"A": "2"}).message


def test_sizes_of_arguments() -> None:
    check_run_job(request(args=["x" * (128 * KIB - 1)]))
    assert "argument 2 is longer than" in refused(args=["", "x" * 128 * KIB]).message
    assert "argument 1 contains NUL" in refused(args=["a\0b"]).message
    assert refused(environment={"A": "x" * (128 * KIB - 2)}).field == "environment"
    error = refused(args=["x" * 100 * KIB] * 8, environment={"A": "x" * 100 * KIB, "B": "x" * 127 * KIB})
    assert error.message.startswith("args and environment together are ")


def test_control_characters_in_names() -> None:
    assert refused(name="a\x1b[2J").message == 'invalid name: "a\\x1b[2J" contains control characters'
    assert refused(labels={"a": "b\n"}).field == "labels"
    assert refused(labels={"": "b"}).message == "invalid labels: a label has no name"
    assert refused(labels={str(n): "" for n in range(65)}).field == "labels"
    assert refused(name="x" * 256).message == "invalid name: longer than 255 bytes"


@pytest.mark.parametrize("request_id", ["a b", "ä", "x" * 129, "a\n"])
def test_request_ids(request_id: str) -> None:
    assert refused(requestId=request_id).field == "requestId"


@pytest.mark.parametrize("path", ["work", "./x", "a\0", "/" + "x" * 4095])
def test_work_dir(path: str) -> None:
    assert refused(workDir=path).field == "workDir"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "a file has no path"),
        ("/etc/passwd", "the path is absolute"),
        ("../x", 'the path contains ".."'),
        ("a/../../x", 'the path contains ".."'),
        ("a/..", 'the path contains ".."'),
        ("a\0b", "the path contains NUL"),
        (".", 'the path contains an empty part or "."'),
        ("a//b", 'the path contains an empty part or "."'),
        ("./a", 'the path contains an empty part or "."'),
        ("x" * 256, "the path is too long"),
    ],
)
def test_upload_paths(path: str, why: str) -> None:
    error = refused(uploads=[upload(path)])
    assert error.message.endswith(why)
    assert error.field == "uploads"


def test_uploads_that_collide() -> None:
    assert "it is there twice" in refused(uploads=[upload("a"), upload("a")]).message
    assert "it is there twice" in refused(uploads=[upload("a"), upload("a/", b"", isDirectory=True)]).message
    assert '"a" is a file' in refused(uploads=[upload("a/b"), upload("a")]).message


def test_upload_details() -> None:
    assert "has more than permission bits" in refused(uploads=[upload("a", mode=0o4755)]).message
    assert "a directory has no content" in refused(uploads=[upload("a", isDirectory=True)]).message
    assert "size 5 is not that of its content, 1" in refused(uploads=[upload("a", size=5)]).message


LATER: dict[str, Any] = {
    "volumes": ["data"],
    "runtime": "python-3.11",
    "gpuCount": 1,
    "gpuMemoryMB": 1,
    "schedule": "1h",
    "priority": 1,
    "retry": job_pb2.RetryPolicy(),
    "nodeSelector": {"zone": "a"},
}


@pytest.mark.parametrize("field", validation.LATER)
def test_later_work_is_refused_by_name(field: str) -> None:
    with pytest.raises(Unimplemented, match=rf"^{field} \(.+\) is not implemented yet$"):
        check_run_job(request(**{field: LATER[field]}))


def test_other_networks_are_later_work() -> None:
    with pytest.raises(Unimplemented, match='network "bridge"'):
        check_run_job(request(network="bridge"))


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("uploads", "says"),
    [
        ([upload("a", b"", digest="sha256:00")], "its digest is not"),
        ([upload("a", b"x", digest=DIGEST)], "content and a digest"),
        ([upload(".", b"", digest=DIGEST)], 'an empty part or "."'),
        ([upload("a", b"", linkTarget="/etc/passwd")], "the absolute path"),
        ([upload("a", b"", linkTarget="../x")], "leads out"),
        ([upload("a/b", b"", linkTarget="x/../y")], "behind a name"),
        ([upload("a", b"x", linkTarget="y")], "a link is no directory"),
        ([upload(f"f{n}", b"", digest=DIGEST) for n in range(17)], "more than 16 with a digest"),
    ],
)
def test_uploads_by_digest_and_links(uploads: list[job_pb2.FileUpload], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        check_run_job(request(uploads=uploads))
    check_run_job(
        request(
            uploads=[
                upload(".", b"", digest=DIGEST, isDirectory=True), upload("d/l", b"", linkTarget="../a"),
                upload("a", b"", digest=DIGEST, size=1 << 40),
            ]
        )
    )  # fmt: skip


def test_fields_of_newer_clients_are_refused() -> None:
    newer = job_pb2.RunJobReq.FromString(request().SerializeToString() + b"\xc0\x3e\x01")
    with pytest.raises(InvalidArgument, match="RunJobReq has a field number 1000 that this gateway does not know"):
        check_run_job(newer)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_garbage_is_refused_by_name_or_accepted(data: bytes) -> None:
    try:
        garbage = job_pb2.RunJobReq.FromString(data)
    except Exception:  # noqa: BLE001 - protobuf's DecodeError: grpc answers that itself
        return
    try:
        check_run_job(garbage)
    except (InvalidArgument, Unimplemented) as error:
        assert error.message
