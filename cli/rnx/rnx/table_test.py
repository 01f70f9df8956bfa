from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblet.api.job_pb2 import Job
from joblet.common.property_fixture import at_any_pace
from rnx import table
from rnx.conftest import JOB_ID, STARTED

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
JOBS = st.lists(
    st.builds(
        Job,
        id=st.just(JOB_ID),
        name=TEXT,
        status=st.sampled_from(["RUNNING", "COMPLETED", "INITIALIZING"]),
        exitCode=st.integers(-1, 255),
        startTime=st.sampled_from(["", STARTED]),
        command=TEXT,
        args=st.lists(TEXT, max_size=3),
    ),
    max_size=5,
)


@at_any_pace
@given(JOBS, st.integers(1, 300))
def test_no_line_is_wider_than_the_terminal(jobs: list[Job], columns: int) -> None:
    lines = [str(row) for row in table.rows(jobs, columns)]
    assert len(lines) == len(jobs) + 2
    assert all(table._width(line) <= columns for line in lines)


@at_any_pace
@given(JOBS)
def test_nothing_is_cut_where_there_is_no_terminal(jobs: list[Job]) -> None:
    lines = list(table.rows(jobs, None))[2:]
    for job, line in zip(jobs, lines, strict=True):
        assert line.cells[0].rstrip() == JOB_ID
        assert "…" not in line.cells[5] or "…" in job.command + "".join(job.args)


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (None, f"{JOB_ID}  nightly  COMPLETED  0          {STARTED}  python3 {'x' * 30}"),
        (200, f"{JOB_ID}  nightly  COMPLETED  0          {STARTED}  python3 {'x' * 30}"),
        (100, f"f47ac10b  nightly   COMPLETED  0          {STARTED}  python3 {'x' * 27}…"),
        (80, f"f47ac10b  nightly   COMPLETED  0          {STARTED}  python3 {'x' * 7}…"),
        (50, "f47ac10b  nightly   COMPLETED  0"),
        (40, "f47ac10b  nightly   COMPLETED  0"),
        (30, "f47ac10b  nightly   COMPLETED"),
        (4, "f47a"),
    ],
)
def test_what_is_cut_first(columns: int | None, line: str) -> None:
    job = Job(id=JOB_ID, name="nightly", status="COMPLETED", startTime=STARTED, command="python3", args=["x" * 30])
    assert str(list(table.rows([job], columns))[2]).split() == line.split()


def test_columns_stand_below_each_other() -> None:
    jobs = [
        Job(id=JOB_ID, name=name, status="RUNNING", startTime=STARTED, command="true") for name in ("夜", "noche", "é")
    ]
    rows = list(table.rows(jobs, 120))
    starts = [table._width(str(row)[: str(row).index("RUNNING")]) for row in rows[2:]]
    assert all(first == second for first, second in pairwise(starts))
