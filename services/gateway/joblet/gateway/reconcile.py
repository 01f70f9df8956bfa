"""What to do when a node connects: the store's jobs compared with those the node knows. Pure; `events` carries it out.

The node is the truth of what happened there, the store of what was asked for:

| in the store                      | on the node | then                                                             |
|-----------------------------------|-------------|------------------------------------------------------------------|
| active, acknowledged              | unknown     | the node lost its state: FAILED                                  |
| active, never acknowledged        | unknown     | StartJob (again): it never ran                                   |
| active                            | known       | acknowledged if it has run; its events say the rest              |
| failed because the node was lost  | alive       | put right                                                        |
| failed because the node was lost  | ended       | its end is among the events that come                            |
| ended                             | alive       | an orphan (stopped while unreachable, say): StopJob              |
| ended                             | ended       | ForgetJob                                                        |
| attempt that another one followed | alive or ended | as ended: StopJob or ForgetJob                                |
| nothing                           | known       | left alone, logged: another gateway's, or our database was lost  |

Acknowledged is a job of which the node has sent an event; until then a node whose executor is killed forgets it.

A node whose events end before the last one applied has lost its state and counts anew from 1. One that has forgotten
events which this store never saw (`gap`: a store that is new, or restored from a backup) is taken at its word: what it
says of each job counts instead of the events, and following goes on behind its last one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from joblet.common.states import TERMINAL, JobState, Reason
from joblet.gateway.store.model import Job


@dataclass(frozen=True, slots=True)
class OnNode:
    """A job as its node knows it: by the id of its present attempt."""

    job_id: str
    state: JobState


@dataclass(slots=True)
class Plan:
    """Ids of jobs by what is to be done with them (of `orphans`, `forget`, `unknown` and `adopt` those that the node
    uses, see `store.attempts`); `sequence` replaces the number of the last event applied."""

    sequence: int | None = None
    known: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    submit: list[str] = field(default_factory=list)
    revived: list[tuple[str, JobState]] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    adopt: list[str] = field(default_factory=list)


def decide(
    stored_sequence: int,
    node_sequence: int,
    active_before: Iterable[Job],
    stored: Mapping[str, Job],
    on_node: Sequence[OnNode],
    *,
    gap: bool = False,
) -> Plan:
    """`active_before` was read before the node was asked, so whatever it shows as acknowledged the node must know;
    `stored` are the rows of the node's jobs, read afterwards."""
    plan = Plan(sequence=node_sequence if gap else 0 if node_sequence < stored_sequence else None)
    there = {job.job_id for job in on_node}
    for job in active_before:
        if job.execution in there:
            continue
        if job.acknowledged or job.state is not JobState.INITIALIZING:
            plan.lost.append(job.id)
        else:
            plan.submit.append(job.id)
    for known in on_node:
        _decide_known(plan, known, stored.get(known.job_id))
    if gap:
        plan.adopt = [job.job_id for job in on_node if _open(stored.get(job.job_id))]
    return plan


def _decide_known(plan: Plan, known: OnNode, job: Job | None) -> None:
    alive = known.state not in TERMINAL
    if job is None:
        plan.unknown.append(known.job_id)
    elif not job.ended:
        if known.state is not JobState.INITIALIZING:  # else its node may still forget it
            plan.known.append(job.id)
    elif _open(job):
        if alive:
            plan.revived.append((job.id, known.state))
    elif alive:
        plan.orphans.append(known.job_id)
    else:
        plan.forget.append(known.job_id)


def _open(job: Job | None) -> bool:
    """Whether the node has the last word about this job."""
    return job is not None and (not job.ended or (job.state is JobState.FAILED and job.reason == Reason.NODE_LOST))
