"""The role table against every method of the descriptors."""

from joblet.common.roles import Role
from joblet.common.rpc.access import methods_of
from joblet.gateway.access import ACCESS, operation_name
from joblet.gateway.server import services

READS = {
    "GetJobStatus", "ListJobs", "GetJobLogs", "WaitJob", "GetWorkflowStatus", "ListWorkflows", "GetWorkflowJobs",
    "ListRuntimes", "GetRuntimeInfo", "ListNetworks", "ListVolumes", "ListNodes", "GetNode", "GetSystemStatus",
    "WatchSystemStatus", "GetJobMetrics", "ListJobOutputs", "GetJobOutput",
}  # fmt: skip


def test_the_table_has_every_method_and_no_other() -> None:
    assert set(ACCESS) == {method for service in services() for method in methods_of(service)}


def test_viewers_read_admins_do_everything_nodes_only_register() -> None:
    for method, access in ACCESS.items():
        name = method.rpartition("/")[2]
        if method.startswith("/joblet.internal."):
            assert access.roles == {Role.NODE}, method
        elif name in READS:
            assert access.roles == {Role.ADMIN, Role.VIEWER}, method
        else:
            assert access.roles == {Role.ADMIN}, method


def test_operations_are_named_as_refusals_print_them() -> None:
    assert operation_name("RunJob") == "run_job"
    assert operation_name("GetJobLogs") == "get_job_logs"
    assert ACCESS["/joblet.JobService/DeleteAllJobs"].operation == ("delete_all_jobs")
