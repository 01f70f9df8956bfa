"""Every method is served or named as missing."""

import pytest

from joblet.api import job_pb2
from joblet.common.errors import StartError
from joblet.gateway.handlers import JobRpcs, RegistryRpcs, handlers_of
from joblet.gateway.server import services
from joblet.gateway.unimplemented import MISSING

SERVED = {
    "joblet.JobService": JobRpcs,
    "joblet.JobletService": JobRpcs,
    "joblet.internal.RegistryService": RegistryRpcs,
}
JOBLET_SERVICE = job_pb2.DESCRIPTOR.services_by_name["JobletService"]


def test_every_method_has_a_handler() -> None:
    for service in services():
        handlers = handlers_of(service, SERVED.get(service.full_name), MISSING.get(service.full_name, {}))
        assert set(handlers) == {method.name for method in service.methods}
        for method in service.methods:
            assert handlers[method.name].request_streaming == method.client_streaming
            assert handlers[method.name].response_streaming == method.server_streaming


def test_a_method_nobody_thought_of_stops_the_start() -> None:
    with pytest.raises(StartError, match="RunJob must be either served or named as missing"):
        handlers_of(JOBLET_SERVICE, object(), {})


def test_a_method_that_is_served_cannot_be_named_as_missing() -> None:
    with pytest.raises(StartError, match="GetJobLogs"):
        handlers_of(JOBLET_SERVICE, JobRpcs, {"GetJobLogs": "logs"})


def test_logs_and_lists_are_passed_on_undecoded() -> None:
    handlers = handlers_of(JOBLET_SERVICE, JobRpcs, {})
    assert [name for name, handler in handlers.items() if handler.response_serializer is None] == [
        "ListJobs",
        "GetJobLogs",
    ]


def test_refusals_name_their_rpc() -> None:
    for rpcs in MISSING.values():
        for name, feature in rpcs.items():
            assert feature.endswith(f"({name})")
