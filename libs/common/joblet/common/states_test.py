import itertools

import pytest

from joblet.common.errors import Code
from joblet.common.states import TERMINAL, TRANSITIONS, IllegalTransition, JobState, check_transition

S = JobState


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(JobState)


def test_terminal_states_are_those_without_a_way_out() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == TERMINAL


def test_every_state_leads_to_an_end() -> None:
    reached = set(TERMINAL)
    for _ in JobState:
        reached |= {state for state, following in TRANSITIONS.items() if following & reached}
    assert reached == set(JobState)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(JobState, JobState)))
def test_check_is_the_table(old: JobState, new: JobState) -> None:
    if new in TRANSITIONS[old]:
        check_transition(old, new)
        return
    with pytest.raises(IllegalTransition) as caught:
        check_transition(old, new)
    assert str(caught.value) == f"a job cannot change from {old.value} to {new.value}"
    assert (caught.value.old, caught.value.new, caught.value.code) == (old, new, Code.INTERNAL)


def test_what_runs_is_not_canceled_and_waits_again_only_for_another_attempt() -> None:
    assert TRANSITIONS[S.RUNNING] == {S.COMPLETED, S.FAILED, S.STOPPED, S.SCHEDULED}
    assert S.RUNNING not in TRANSITIONS[S.PENDING] | TRANSITIONS[S.SCHEDULED]
