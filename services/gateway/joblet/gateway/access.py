"""The one table of who may call what: every RPC of every service the gateway serves, by its full method name.

Deny by default: a method without a row cannot be served at all (`joblet.common.rpc.RpcServer` refuses to start). An
`operation` is the name that refusals print: "role viewer is not allowed to perform operation run_job".
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from joblet.common.roles import Role
from joblet.common.rpc import Access

ADMIN = frozenset({Role.ADMIN})
READ = frozenset({Role.ADMIN, Role.VIEWER})
NODE = frozenset({Role.NODE})

_ROLES: Mapping[str, Mapping[str, frozenset[Role]]] = {
    "joblet.JobService": {
        "RunJob": ADMIN,
        "GetJobStatus": READ,
        "StopJob": ADMIN,
        "ListJobs": READ,
        "GetJobLogs": READ,
        "RunWorkflow": ADMIN,
        "GetWorkflowStatus": READ,
        "ListWorkflows": READ,
        "GetWorkflowJobs": READ,
        "WaitJob": READ,
        "CancelJob": ADMIN,
        "DeleteJob": ADMIN,
        "DeleteAllJobs": ADMIN,
        "Upload": ADMIN,
        "GetJobOutput": READ,
        "ListJobOutputs": READ,
        "ExecJob": ADMIN,
        "GetJobMetrics": READ,
        "StopWorkflow": ADMIN,
    },
    "joblet.JobletService": {
        "RunJob": ADMIN,
        "GetJobStatus": READ,
        "StopJob": ADMIN,
        "ListJobs": READ,
        "GetJobLogs": READ,
    },
    "joblet.RuntimeService": {
        "InstallRuntime": ADMIN,
        "ListRuntimes": READ,
        "GetRuntimeInfo": READ,
        "TestRuntime": ADMIN,
        "ValidateRuntime": ADMIN,
        "RemoveRuntime": ADMIN,
    },
    "joblet.NetworkService": {
        "CreateNetwork": ADMIN,
        "ListNetworks": READ,
        "RemoveNetwork": ADMIN,
    },
    "joblet.VolumeService": {
        "CreateVolume": ADMIN,
        "ListVolumes": READ,
        "RemoveVolume": ADMIN,
    },
    "joblet.NodeService": {
        "ListNodes": READ,
        "GetNode": READ,
        "CordonNode": ADMIN,
        "UncordonNode": ADMIN,
        "DrainNode": ADMIN,
    },
    "joblet.MonitoringService": {
        "GetSystemStatus": READ,
        "WatchSystemStatus": READ,
    },
    "joblet.internal.RegistryService": {
        "Heartbeat": NODE,
    },
}


def operation_name(rpc: str) -> str:
    """RunJob -> run_job."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", rpc).lower()


ACCESS: Mapping[str, Access] = MappingProxyType(
    {
        f"/{service}/{rpc}": Access(operation=operation_name(rpc), roles=roles)
        for service, rpcs in _ROLES.items()
        for rpc, roles in rpcs.items()
    }
)
