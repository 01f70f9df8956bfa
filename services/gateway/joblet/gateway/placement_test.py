"""Who fits where, and what is said of those who wait."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joblet.common.config import JobletConfig
from joblet.gateway import placement
from joblet.gateway.placement import Capacity, Line, Load, Needs, Room, Waiting, choose, explain, fits_empty, shortage
from joblet.gateway.store.model import Node, NodeState

NODE = Node("n1", NodeState.READY, "h:1", "h:2", "h:3", "b", 2, 1000 << 20, {}, "1", "linux", 1, 1, 1, 0, "", 0, 0, 0)
OFFERED = Capacity(jobs=3, cpu_percent=400, memory_mb=1000, largest=Needs(200, 1000))
EMPTY = Room("n1", OFFERED, Load(0, 0, 0))


def room(node_id: str = "n1", *, jobs: int = 0, cpu: int = 0, memory: int = 0, **fields: Any) -> Room:
    return replace(EMPTY, node_id=node_id, load=Load(jobs, cpu, memory), **fields)


def test_what_a_node_has_for_jobs() -> None:
    assert placement.capacity(NODE, JobletConfig()) == Capacity(100, 3200, 1000, Needs(200, 1000))
    less = JobletConfig(max_concurrent_jobs=3, cpu_overcommit=0.5, memory_overcommit=1.5)
    assert placement.capacity(NODE, less) == Capacity(3, 100, 1500, Needs(100, 1000))


def test_what_of_uploads_a_node_can_take() -> None:
    largest = Needs(200, 1000)
    for work_mb, content_mb, memory_mb, expected in (
        (0, 0, 0, (1000, "maxMemory")),
        (0, 0, 300, (300, "maxMemory")),
        (200, 0, 300, (200, "workSizeMb")),
        (200, 100, 300, (100, "contentTotalMb")),
        (400, 500, 300, (300, "maxMemory")),
    ):
        node = replace(NODE, work_bytes=work_mb << 20, content_bytes=content_mb << 20)
        room = placement.upload_room(node, largest, memory_mb)
        assert (room.size >> 20, room.setting) == expected


@pytest.mark.parametrize(
    ("needs", "load", "reason", "message"),
    [
        (Needs(100, 500), room(), None, ""),
        (Needs(200, 1000), room(jobs=2, cpu=200), None, ""),
        (Needs(0, 0), room(jobs=2, cpu=400, memory=1000), None, ""),
        (Needs(0, 0), room(jobs=3), Waiting.JOBS, "waiting for a job to end on node n1: it has maxConcurrentJobs (3)"),
        (Needs(1, 501), room(memory=500), Waiting.MEMORY, "waiting for memory on node n1: needs 501 MB, 500 MB free"),
        (Needs(1, 1), room(memory=1500), Waiting.MEMORY, "waiting for memory on node n1: needs 1 MB, 0 MB free"),
        (Needs(150, 1), room(cpu=300), Waiting.CPU, "waiting for CPU on node n1: needs 150 %, 100 % free"),
        (Needs(1, 1), room(connected=False), Waiting.NODE, "waiting for node n1: not connected"),
        (Needs(1, 1), room(full=True), Waiting.JOBS,
         "waiting for a job to end on node n1, which takes no more for now"),
    ],
)  # fmt: skip
def test_what_is_short(needs: Needs, load: Room, reason: Waiting | None, message: str) -> None:
    why = shortage(needs, load)
    assert (why and why.reason, why.message if why else "") == (reason, message)


@pytest.mark.parametrize(
    ("wanted", "there", "has"),
    [("", "0-1", True), ("0", "", True), ("0,1", "0-1", True), ("1-2", "0-1", False), ("4", "0,4", True)],
)
def test_cores(wanted: str, there: str, has: bool) -> None:
    assert placement.has_cores(wanted, there) is has


def test_the_node_with_fewest_jobs() -> None:
    assert choose(Needs(1, 1), [room("a", jobs=2), room("b", jobs=1), room("c", jobs=1)]) == "b"
    assert choose(Needs(1, 1), [room("a", jobs=2), room("b", jobs=1, memory=1000)]) == "a"
    assert choose(Needs(1, 1), [room("a", taken=True), room("b", jobs=2)]) == "b"
    assert choose(Needs(1, 1), [room("a", taken=True), room("b", connected=False)]) is None
    assert choose(Needs(1, 1), []) is None


def test_what_a_job_is_told() -> None:
    line = Line(2, 17)
    full = room("a", jobs=3)
    assert explain(Needs(1, 600), [room(memory=500)], line).message == (
        "waiting for memory on node n1: needs 600 MB, 500 MB free; place 2 of 17 in the queue"
    )
    assert explain(Needs(1, 1), [room()], line) == placement.Why(
        Waiting.QUEUE, "waiting for those before it; place 2 of 17 in the queue"
    )
    assert explain(Needs(1, 1), [full, replace(full, node_id="b")], line).message.startswith(
        "waiting for a job to end on node a: it has maxConcurrentJobs (3) (and 1 more); "
    )
    assert explain(Needs(1, 2000), [room()], line).reason is Waiting.NODE
    small, large = room(upload_bytes=5), room("b", upload_bytes=7)
    assert explain(Needs(1, 1), [small, large], line, 8) == placement.Why(
        Waiting.NODE,
        "waiting for a node with room for uploads of 8 bytes: there is one for at most 7; place 2 of 17 in the queue",
    )
    for rooms in ([small, large], [small, room("b")]):
        assert explain(Needs(1, 1), rooms, line, 7).reason is Waiting.QUEUE
    assert explain(Needs(1, 1), [], line).message == (
        "waiting for a node that is large enough; place 2 of 17 in the queue"
    )


_AMOUNT = st.integers(0, 1200)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(_AMOUNT, _AMOUNT), st.tuples(st.integers(0, 4), _AMOUNT, _AMOUNT))
def test_a_job_that_is_let_in_never_makes_a_node_too_full(wanted: tuple[int, int], load: tuple[int, int, int]) -> None:
    needs, before = Needs(*wanted), Load(*load)
    if shortage(needs, replace(EMPTY, load=before)) is None:
        assert before.jobs + 1 <= OFFERED.jobs
        assert needs.memory_mb + before.memory_mb <= OFFERED.memory_mb
        assert needs.cpu_percent + before.cpu_percent <= OFFERED.cpu_percent
    if fits_empty(needs, OFFERED):
        assert shortage(needs, EMPTY) is None
