"""From RPC names to functions: every method of every service, either served or refused as not there yet.

Handlers are made from the descriptors, not from the generated servicers, so that a method nobody thought of stops the
start instead of answering something, and so that GetJobLogs can hand on bytes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from joblet.api import job_pb2
from joblet.api.internal import registry_pb2
from joblet.common.errors import StartError, Unimplemented
from joblet.common.rpc import current_identity
from joblet.gateway.deletion import Deletions
from joblet.gateway.jobs import Jobs
from joblet.gateway.listing import Listings
from joblet.gateway.nodes import Nodes
from joblet.gateway.outputs import Outputs
from joblet.gateway.streams import Logs
from joblet.gateway.uploads import Uploads

Behaviour = Callable[[Any, Any], Awaitable[Any]]

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

RAW_ANSWERS = frozenset({"GetJobLogs", "ListJobs"})


class JobRpcs:
    """JobService, and JobletService with the same code. The methods are named as the RPCs are."""

    def __init__(
        self, jobs: Jobs, listings: Listings, deletions: Deletions, logs: Logs, uploads: Uploads, outputs: Outputs
    ) -> None:
        self._jobs = jobs
        self._listings = listings
        self._deletions = deletions
        self._logs = logs
        self._uploads = uploads
        self._outputs = outputs

    async def RunJob(self, request: job_pb2.RunJobReq, _: Context) -> job_pb2.RunJobRes:
        return job_pb2.RunJobRes(job=await self._jobs.run(request))

    async def GetJobStatus(self, request: job_pb2.GetJobStatusReq, _: Context) -> job_pb2.GetJobStatusRes:
        return await self._jobs.status(request.uuid)

    async def StopJob(self, request: job_pb2.StopJobReq, _: Context) -> job_pb2.StopJobRes:
        return job_pb2.StopJobRes(job=await self._jobs.stop(request.uuid))

    async def CancelJob(self, request: job_pb2.CancelJobReq, _: Context) -> job_pb2.CancelJobRes:
        return job_pb2.CancelJobRes(job=await self._jobs.cancel(request.uuid))

    async def ListJobs(self, request: job_pb2.EmptyRequest, _: Context) -> bytes:
        return await self._listings.page(request)

    async def WaitJob(self, request: job_pb2.WaitJobReq, _: Context) -> job_pb2.WaitJobRes:
        return job_pb2.WaitJobRes(job=await self._jobs.wait(request.uuid, request.timeoutSeconds))

    async def Upload(self, chunks: AsyncIterator[job_pb2.UploadChunk], _: Context) -> job_pb2.UploadRes:
        return await self._uploads.receive(chunks)

    async def DeleteJob(self, request: job_pb2.DeleteJobReq, _: Context) -> job_pb2.DeleteJobRes:
        return await self._deletions.delete(request.uuid)

    async def DeleteAllJobs(self, _: job_pb2.DeleteAllJobsReq, __: Context) -> job_pb2.DeleteAllJobsRes:
        return await self._deletions.delete_all()

    async def GetJobOutput(self, request: job_pb2.GetJobOutputReq, _: Context) -> AsyncIterator[job_pb2.OutputChunk]:
        async for chunk in self._outputs.read(request):
            yield chunk

    async def ListJobOutputs(self, request: job_pb2.ListJobOutputsReq, _: Context) -> job_pb2.ListJobOutputsRes:
        return await self._outputs.page(request)

    async def GetJobLogs(self, request: job_pb2.GetJobLogsReq, context: Context) -> None:
        await self._logs.send(request, context.write)


class RegistryRpcs:
    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def Heartbeat(self, request: registry_pb2.HeartbeatRequest, _: Context) -> registry_pb2.HeartbeatResponse:
        return registry_pb2.HeartbeatResponse(lease_seconds=await self._nodes.heartbeat(current_identity(), request))


def handlers_of(service: ServiceDescriptor, served: object, missing: Mapping[str, str]) -> dict[str, Handler]:
    """Raises StartError for a method that is neither an attribute of `served` nor in `missing`, or both."""
    handlers: dict[str, Handler] = {}
    for method in service.methods:
        behaviour: Behaviour | None = getattr(served, method.name, None)
        feature = missing.get(method.name)
        if (behaviour is None) == (feature is None):
            raise StartError(f"{method.full_name} must be either served or named as missing")
        handlers[method.name] = _handler(method, behaviour or _refusal(feature or ""))
    return handlers


def _refusal(feature: str) -> Behaviour:
    async def refuse(_request: object, _context: object) -> None:
        raise Unimplemented(feature)

    return refuse


def _handler(method: MethodDescriptor, behaviour: Behaviour) -> Handler:
    streams_in, streams_out = method.client_streaming, method.server_streaming
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[streams_in, streams_out]
    handler: Handler = make(
        behaviour,
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=None
        if method.name in RAW_ANSWERS
        else GetMessageClass(method.output_type).SerializeToString,
    )
    return handler
