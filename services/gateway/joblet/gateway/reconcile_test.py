"""What follows when a node connects, case by case."""

from joblet.common.states import JobState, Reason
from joblet.gateway.reconcile import OnNode, Plan, decide
from joblet.gateway.store.model import Job
from joblet.gateway.store.testing import job_row


def plan_of(jobs: list[Job], on_node: list[OnNode], *, stored: int = 5, node: int = 9, gap: bool = False) -> Plan:
    active = [job for job in jobs if not job.ended]
    return decide(stored, node, active, {job.id: job for job in jobs}, on_node, gap=gap)


def test_a_job_the_node_has_lost() -> None:
    jobs = [job_row("a", acknowledged=True), job_row("b", state=JobState.RUNNING)]
    assert plan_of(jobs, []) == Plan(lost=["a", "b"])


def test_a_job_that_never_arrived() -> None:
    assert plan_of([job_row("a")], []) == Plan(submit=["a"])


def test_a_job_that_arrived_although_nobody_said_so() -> None:
    assert plan_of([job_row("a")], [OnNode("a", JobState.COMPLETED)]) == Plan(known=["a"])


def test_a_job_that_its_node_may_still_forget() -> None:
    assert plan_of([job_row("a")], [OnNode("a", JobState.INITIALIZING)]) == Plan()
    assert plan_of([job_row("a")], [OnNode("a", JobState.RUNNING)]) == Plan(known=["a"])


def test_a_node_that_comes_back() -> None:
    lost = [job_row(name, state=JobState.FAILED, reason=Reason.NODE_LOST) for name in "abc"]
    on_node = [OnNode("a", JobState.RUNNING), OnNode("b", JobState.COMPLETED)]
    assert plan_of(lost, on_node) == Plan(revived=[("a", JobState.RUNNING)])


def test_a_job_stopped_while_its_node_was_away() -> None:
    jobs = [job_row("a", state=JobState.STOPPED), job_row("b", state=JobState.FAILED, reason=Reason.LAUNCH)]
    on_node = [OnNode("a", JobState.RUNNING), OnNode("b", JobState.FAILED)]
    assert plan_of(jobs, on_node) == Plan(orphans=["a"], forget=["b"])


def test_a_job_of_nobody() -> None:
    assert plan_of([], [OnNode("a", JobState.RUNNING)]) == Plan(unknown=["a"])


def test_a_node_that_counts_anew() -> None:
    assert plan_of([], [], stored=5, node=4) == Plan(sequence=0)
    assert plan_of([], [], stored=5, node=5) == Plan()


def test_events_that_nobody_can_send_any_more() -> None:
    jobs = [
        job_row("a"),
        job_row("b", state=JobState.FAILED, reason=Reason.NODE_LOST),
        job_row("c", state=JobState.COMPLETED),
    ]
    on_node = [OnNode(name, JobState.COMPLETED) for name in "abc"]
    plan = plan_of(jobs, on_node, stored=0, node=9, gap=True)
    assert (plan.sequence, plan.adopt, plan.forget) == (9, ["a", "b"], ["c"])
