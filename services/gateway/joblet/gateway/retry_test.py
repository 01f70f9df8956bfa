"""Which ends are tried again, and when."""

from dataclasses import replace

import pytest

from joblet.api.job_pb2 import RetryPolicy
from joblet.common.errors import InvalidArgument
from joblet.common.states import JobState, Reason
from joblet.common.units import NS_PER_SECOND
from joblet.gateway import retry
from joblet.gateway.retry import Policy

POLICY = Policy(retries_left=3, attempt=1, backoff_seconds=10, no_retry_codes=(2, 137))


def seconds(policy: Policy, state: JobState, reason: Reason, exit_code: int = 1) -> float | None:
    pause = retry.pause_ns(policy, state, reason, exit_code)
    return None if pause is None else pause / NS_PER_SECOND


def test_every_reason_is_decided() -> None:
    again = {reason for reason in Reason if seconds(POLICY, JobState.FAILED, reason) is not None}
    assert again == {
        Reason.EXIT, Reason.SIGNAL, Reason.OOM, Reason.LAUNCH, Reason.SUPERVISOR_KILLED, Reason.NODE_RESTARTED,
        Reason.NODE_LOST,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "state", "reason", "exit_code"),
    [
        (replace(POLICY, retries_left=0), JobState.FAILED, Reason.EXIT, 1),
        (POLICY, JobState.FAILED, Reason.EXIT, 2),
        (POLICY, JobState.FAILED, Reason.SIGNAL, 137),
        (POLICY, JobState.COMPLETED, Reason.EXIT, 0),
        (POLICY, JobState.STOPPED, Reason.TIMEOUT, -1),
        (POLICY, JobState.STOPPED, Reason.STOPPED, -1),
    ],
)
def test_ends_that_are_the_last(policy: Policy, state: JobState, reason: Reason, exit_code: int) -> None:
    assert seconds(policy, state, reason, exit_code) is None


def test_the_pause_doubles_up_to_an_hour() -> None:
    pauses = [seconds(replace(POLICY, attempt=number), JobState.FAILED, Reason.EXIT) for number in (1, 2, 3, 9, 10, 99)]
    assert pauses == [10, 20, 40, 2560, 3600, 3600]
    assert seconds(replace(POLICY, backoff_seconds=0, attempt=99), JobState.FAILED, Reason.EXIT) == 0


def test_policies() -> None:
    retry.check(RetryPolicy())
    retry.check(RetryPolicy(maxRetries=100, backoffSeconds=3600, nonRetriableExitCodes=[1, 255]))


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (RetryPolicy(maxRetries=101), "maxRetries: expected a number from 0 to 100, got 101"),
        (RetryPolicy(maxRetries=-1), "maxRetries: expected a number from 0 to 100, got -1"),
        (RetryPolicy(maxRetries=1, backoffSeconds=3601), "backoffSeconds: expected a number from 0 to 3600, got 3601"),
        (RetryPolicy(maxRetries=1, backoffSeconds=-1), "backoffSeconds: expected a number from 0 to 3600, got -1"),
        (RetryPolicy(maxRetries=1, nonRetriableExitCodes=[0]), "nonRetriableExitCodes: expected a number from 1"),
        (RetryPolicy(maxRetries=1, nonRetriableExitCodes=[256]), "nonRetriableExitCodes: expected a number from 1 to"),
        (RetryPolicy(maxRetries=1, nonRetriableExitCodes=[1] * 256), "nonRetriableExitCodes has a code twice"),
        (RetryPolicy(backoffSeconds=1), "maxRetries is 0"),
    ],
)
def test_what_no_job_can_be_given(policy: RetryPolicy, says: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^invalid retry: {says}") as caught:
        retry.check(policy)
    assert caught.value.field == "retry"
