import pytest

from joblet.common.errors import InvalidArgument, ResourceExhausted
from joblet.executor.admission import Capacity, admit, check_limits
from joblet.executor.cgroup.limits import Limits

GIB = 1 << 30
NODE = Capacity(cores=frozenset({0, 1}), memory_bytes=4 * GIB, max_processes=32768, max_concurrent_jobs=3)
FITTING = Limits(cpu_percent=200, cpu_cores=(0, 1), memory_bytes=4 * GIB, io_bytes_per_second=1, max_processes=32768)


def test_everything_the_node_has_may_be_asked_for() -> None:
    admit(FITTING, NODE, running_jobs=2)


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (Limits(cpu_percent=201, memory_bytes=GIB, max_processes=1), "maxCPU"),
        (Limits(cpu_percent=1, cpu_cores=(1, 2), memory_bytes=GIB, max_processes=1), "cpuCores"),
        (Limits(cpu_percent=1, memory_bytes=4 * GIB + 1, max_processes=1), "maxMemory"),
        (Limits(cpu_percent=1, memory_bytes=GIB, max_processes=32769), "maxProcesses"),
    ],
)
def test_more_than_the_node_has_is_refused_in_the_words_of_the_reference(limits: Limits, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        admit(limits, NODE, running_jobs=0)
    assert str(refusal.value) == f"job creation failed: {field} exceeds system limits"
    assert refusal.value.field == field


def test_a_full_node_refuses_for_now() -> None:
    with pytest.raises(ResourceExhausted, match="maxConcurrentJobs"):
        admit(FITTING, NODE, running_jobs=3)


def test_what_can_never_fit_is_told_before_that_the_node_is_full() -> None:
    with pytest.raises(InvalidArgument):
        admit(Limits(cpu_percent=300, memory_bytes=GIB, max_processes=1), NODE, running_jobs=3)


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (Limits(cpu_percent=0, memory_bytes=GIB, max_processes=1), "maxCPU"),
        (Limits(cpu_percent=1, memory_bytes=GIB, max_processes=-1), "maxProcesses"),
        (Limits(cpu_percent=1, memory_bytes=4095, max_processes=1), "maxMemory"),
        (Limits(cpu_percent=1, memory_bytes=GIB, max_processes=1, io_bytes_per_second=-1), "maxIOBPS"),
    ],
)
def test_numbers_that_are_no_limits(limits: Limits, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        check_limits(limits)
    assert refusal.value.field == field
