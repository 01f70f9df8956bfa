"""The RPCs of later work: what each of them needs that does not exist yet, in the words of the refusal.

An RPC is either served or has a row here; `joblet.gateway.handlers` refuses to start with anything in between.
"""

from collections.abc import Mapping

MISSING: Mapping[str, Mapping[str, str]] = {
    "joblet.JobService": {
        "RunWorkflow": "running workflows (RunWorkflow)",
        "GetWorkflowStatus": "the status of workflows (GetWorkflowStatus)",
        "ListWorkflows": "listing workflows (ListWorkflows)",
        "GetWorkflowJobs": "listing the jobs of a workflow (GetWorkflowJobs)",
        "StopWorkflow": "stopping workflows (StopWorkflow)",
        "ExecJob": "running a command inside a job (ExecJob)",
        "GetJobMetrics": "metrics of a job (GetJobMetrics)",
    },
    "joblet.RuntimeService": {
        "InstallRuntime": "installing runtimes (InstallRuntime)",
        "ListRuntimes": "listing runtimes (ListRuntimes)",
        "GetRuntimeInfo": "details of a runtime (GetRuntimeInfo)",
        "TestRuntime": "testing runtimes (TestRuntime)",
        "ValidateRuntime": "validating runtimes (ValidateRuntime)",
        "RemoveRuntime": "removing runtimes (RemoveRuntime)",
    },
    "joblet.NetworkService": {
        "CreateNetwork": "creating networks (CreateNetwork)",
        "ListNetworks": "listing networks (ListNetworks)",
        "RemoveNetwork": "removing networks (RemoveNetwork)",
    },
    "joblet.VolumeService": {
        "CreateVolume": "creating volumes (CreateVolume)",
        "ListVolumes": "listing volumes (ListVolumes)",
        "RemoveVolume": "removing volumes (RemoveVolume)",
    },
    "joblet.NodeService": {
        "ListNodes": "listing nodes (ListNodes)",
        "GetNode": "details of a node (GetNode)",
        "CordonNode": "cordoning nodes (CordonNode)",
        "UncordonNode": "uncordoning nodes (UncordonNode)",
        "DrainNode": "draining nodes (DrainNode)",
    },
    "joblet.MonitoringService": {
        "GetSystemStatus": "the status of the system (GetSystemStatus)",
        "WatchSystemStatus": "watching the status of the system (WatchSystemStatus)",
    },
}
