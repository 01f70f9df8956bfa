"""Jobs submitted, stopped, followed and ended while gateway, executor and logstore are killed, in any order.

A state machine (Hypothesis) drives a real system through the public API and `kill -9`; `protocol_programs` knows which
end each job may have, `protocol_observer` watches ListJobs, the gateway's store and the executor's journal meanwhile:
one outcome per job, states only along `joblet.common.states`, no byte lost or doubled, event numbers without gaps, none
applied twice, one job per request id, StopJob's answer kept, nothing left on the machine.

The same few examples every time. More of them, other ones each time, and longer:

    JOBLET_PROTOCOL=40x30 pytest tests/e2e/protocol_test.py -s     # examples x steps

A failure prints its steps. It is not made smaller (a system's timing does not repeat): shorten the steps instead.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)
from protocol_programs import PROGRAMS, Job, Program
from protocol_system import ATTACKED, Target, target

pytestmark = [pytest.mark.root, pytest.mark.slow]

EXAMPLES, STEPS = 5, 12
FEW_DEATHS = 2  # a system whose services died more often pauses longer and longer before it starts them again
JOIN_SECONDS = 600.0
VICTIMS = st.lists(st.sampled_from(ATTACKED), min_size=1, max_size=2, unique=True)
DELAYS = st.sampled_from([0, 1, 2, 3, 5, 8, 12, 20, 40])  # milliseconds; a launch takes 3 to 30 of them


class Failed(Exception):
    """What went wrong first, with the steps that led there; Hypothesis would only see that it does not repeat."""


class Systems:
    """The system that is attacked; a fresh one when its services have died too often."""

    def __init__(self, directory: Path) -> None:
        self.steps: Counter[str] = Counter()
        self.story: list[str] = []  # of the present example
        self.failure: Failed | None = None
        self.used = 0
        self.looks = 0
        self._directory = directory
        self._stack = ExitStack()
        self._current: Target | None = None

    def take(self) -> Target:
        """A running system on which no job is alive."""
        current = self._current
        if current is not None and max(current.deaths.values(), default=0) > FEW_DEATHS:
            self.close()
        if self._current is None:
            self.used += 1
            self._current = self._stack.enter_context(target(self._directory / f"jbtest-{self.used}"))
        return self._current

    def close(self) -> None:
        """Takes it down; fails when something of it is left."""
        if self._current is not None:
            self.looks += self._current.observer.looks
        self._current = None
        self._stack.close()


class Protocol(RuleBasedStateMachine):
    """One example: jobs come, services go."""

    systems: ClassVar[Systems]
    jobs: Bundle[Job] = Bundle("jobs")

    @initialize(target=jobs, programs=st.lists(PROGRAMS, min_size=2, max_size=4))
    def begin(self, programs: list[Program]) -> MultipleResults[Job]:
        if self.systems.failure is not None:
            raise self.systems.failure
        self.systems.story.clear()
        with self._step("begin", *programs):
            self.target = self.systems.take()
            begun = [self._new(program) for program in programs]
            self._at_once([partial(self.target.submit, job) for job in begun])
        return multiple(*begun)

    @rule(target=jobs, program=PROGRAMS, callers=st.integers(1, 3))
    def submit(self, program: Program, callers: int) -> Job:
        """One request, sent by several callers at once."""
        with self._step("submit", program, callers):
            job = self._new(program)
            self._at_once([lambda: self.target.submit(job)] * callers)
        return job

    @rule(target=jobs, program=PROGRAMS, victims=VICTIMS, delay=DELAYS)
    def submit_and_kill(self, program: Program, victims: list[str], delay: int) -> Job:
        with self._step("submit_and_kill", program, victims, delay):
            job = self._new(program)
            self._at_once([lambda: self.target.submit(job), lambda: self._kill(victims, delay)])
        return job

    @rule(job=jobs)
    def submit_again(self, job: Job) -> None:
        with self._step("submit_again", job):
            self.target.submit(job)

    @rule(job=jobs)
    def stop(self, job: Job) -> None:
        with self._step("stop", job):
            self.target.stop(job)

    @rule(job=jobs, victims=VICTIMS, delay=DELAYS)
    def stop_and_kill(self, job: Job, victims: list[str], delay: int) -> None:
        with self._step("stop_and_kill", job, victims, delay):
            self._at_once([lambda: self.target.stop(job), lambda: self._kill(victims, delay)])

    @rule(job=jobs)
    def follow(self, job: Job) -> None:
        with self._step("follow", job):
            self.target.follow(job)

    @rule(job=jobs)
    def read(self, job: Job) -> None:
        with self._step("read", job):
            job.check_output_so_far(self.target.read(job, follow=False))

    @rule(job=jobs)
    def wait(self, job: Job) -> None:
        """To the end, if it has one."""
        with self._step("wait", job):
            if job.stop_asked or not job.program.endless:
                job.check_end(self.target.wait(job), self.target.read(job, follow=True))

    @rule(victims=VICTIMS)
    def kill(self, victims: list[str]) -> None:
        """What follows happens while they are down."""
        with self._step("kill", victims):
            self._kill(victims, 0)

    @rule(victims=VICTIMS)
    def kill_and_settle(self, victims: list[str]) -> None:
        with self._step("kill_and_settle", victims):
            self._kill(victims, 0)
            self.target.settle()

    @rule(name=st.sampled_from(ATTACKED))
    def restart(self, name: str) -> None:
        """As an administrator does, with SIGTERM."""
        with self._step("restart", name):
            if name in self.target.mortal():
                self.target.end_service(name, signal.SIGTERM)

    def teardown(self) -> None:
        if hasattr(self, "target") and self.systems.failure is None:
            with self._step("finish"):
                self.target.finish()

    @contextmanager
    def _step(self, name: str, *details: object) -> Iterator[None]:
        """Counts and tells the step; afterwards nothing wrong may have been seen."""
        self.systems.steps[name] += 1
        self.systems.story.append(f"{time.strftime('%H:%M:%S')} {name} {', '.join(map(str, details))}")
        try:
            yield
            self.target.check()
        except Exception as error:
            story = "\n  ".join(self.systems.story)
            self.systems.failure = Failed(f"{error}\nafter these steps:\n  {story}")
            raise self.systems.failure from error

    def _new(self, program: Program) -> Job:
        job = Job(program)
        self.target.jobs.append(job)
        return job

    def _kill(self, victims: list[str], delay_milliseconds: int) -> None:
        time.sleep(delay_milliseconds / 1000)  # where in the work of others it strikes, not a wait for anything
        for name in victims:
            if name in self.target.mortal():
                self.target.end_service(name, signal.SIGKILL)

    def _at_once(self, actions: list[Callable[[], None]]) -> None:
        errors: list[BaseException] = []

        def run(action: Callable[[], None]) -> None:
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - handed to the caller below
                errors.append(error)

        threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive(), "a call does not come back"
        if errors:
            raise errors[0]


def profile() -> settings:
    """The fixed small one, or what JOBLET_PROTOCOL asks for."""
    wanted = os.environ.get("JOBLET_PROTOCOL", "")
    examples, steps = (int(number) for number in wanted.split("x")) if wanted else (EXAMPLES, STEPS)
    return settings(
        max_examples=examples, stateful_step_count=steps, derandomize=not wanted, deadline=None, database=None,
        phases=(Phase.generate,), report_multiple_bugs=False, suppress_health_check=tuple(HealthCheck),
    )  # fmt: skip


@pytest.fixture
def systems(tmp_path: Path) -> Iterator[Systems]:
    """Taken down whatever happens."""
    made = Systems(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_any_order_of_jobs_and_crashes(systems: Systems) -> None:
    class Run(Protocol):
        pass

    Run.systems = systems
    begun = time.monotonic()
    try:
        run_state_machine_as_test(Run, settings=profile())
    except Exception:
        if systems.failure is not None:
            raise systems.failure from systems.failure.__cause__
        raise
    finally:
        systems.close()
        steps = systems.steps
        print(
            f"\n{steps.total()} steps in {time.monotonic() - begun:.0f} s on {systems.used} systems,"
            f" {systems.looks} looks of the observer: {dict(steps)}"
        )
