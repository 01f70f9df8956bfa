"""The public API holds every message, field and call of the API reference, as it is printed there.

Compares descriptors, so both definitions of package joblet can be looked at in one process.
"""

from __future__ import annotations

from pathlib import Path

import stubs
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

SPEC = stubs.ROOT.parent / "tests/e2e/spec"


def described(root: Path, package: str, tmp_path: Path) -> list[FileDescriptorProto]:
    """The files of `package` below `root`, compiled."""
    target = tmp_path / "descriptors"
    stubs.compile_protos(root, stubs.definitions(root), [f"--descriptor_set_out={target}", "--include_imports"])
    return [file for file in FileDescriptorSet.FromString(target.read_bytes()).file if file.package == package]


def messages(files: list[FileDescriptorProto]) -> dict[str, DescriptorProto]:
    return {message.name: message for file in files for message in file.message_type}


def services(files: list[FileDescriptorProto]) -> dict[str, ServiceDescriptorProto]:
    return {service.name: service for file in files for service in file.service}


def field_facts(field: FieldDescriptorProto) -> tuple[str, int, int, int, str]:
    """What two definitions have to agree on for a field to mean the same, on the wire and in code."""
    return field.name, field.number, field.type, field.label, field.type_name


def test_printed_fields_and_numbers(tmp_path: Path) -> None:
    printed, ours = messages(described(SPEC, "joblet", tmp_path)), messages(described(stubs.ROOT, "joblet", tmp_path))
    assert {"Job", "RunJobReq", "GetJobStatusRes", "DataChunk", "WorkflowJob", "GetWorkflowStatusResponse"} <= set(
        printed
    )
    for name, message in printed.items():
        assert name in ours
        missing = {field_facts(field) for field in message.field} - {field_facts(field) for field in ours[name].field}
        assert not missing, f"{name}: {sorted(missing)}"


def test_added_fields_come_after_the_printed_ones(tmp_path: Path) -> None:
    printed, ours = messages(described(SPEC, "joblet", tmp_path)), messages(described(stubs.ROOT, "joblet", tmp_path))
    for name, message in printed.items():
        names = {field.name for field in message.field}
        highest = max((field.number for field in message.field), default=0)
        early = [field.name for field in ours[name].field if field.name not in names and field.number <= highest]
        assert not early, f"{name}: {early} stand among the printed numbers"


def test_printed_calls(tmp_path: Path) -> None:
    printed, ours = services(described(SPEC, "joblet", tmp_path)), services(described(stubs.ROOT, "joblet", tmp_path))
    assert set(printed) == {"JobletService", "JobService", "RuntimeService"}
    for name, service in printed.items():
        methods = {method.name: method for method in ours[name].method}
        for method in service.method:
            assert methods[method.name] == method, f"{name}.{method.name}"


def test_the_small_service_is_a_part_of_the_large_one(tmp_path: Path) -> None:
    ours = services(described(stubs.ROOT, "joblet", tmp_path))
    large = {method.name: method for method in ours["JobService"].method}
    for method in ours["JobletService"].method:
        assert large[method.name] == method


def test_numbers_are_unique_and_names_spelled_as_printed(tmp_path: Path) -> None:
    for name, message in messages(described(stubs.ROOT, "joblet", tmp_path)).items():
        numbers = [field.number for field in message.field]
        assert len(numbers) == len(set(numbers)), name
        snake = {field.name for field in message.field if "_" in field.name}
        assert snake <= {"secret_environment"}, f"{name}: {snake} should be camelCase"
