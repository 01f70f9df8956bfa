"""What the tests of the drivers share."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from joblet.executor.cgroup.detect import detect
from joblet.executor.cgroup.driver import CgroupDriver
from joblet.executor.cgroup.driver_for_tests import RUN, directories_named


@pytest.fixture
def parent() -> str:
    return RUN


@pytest.fixture
def driver(parent: str) -> Iterator[CgroupDriver]:
    driver = detect(parent)
    driver.prepare()
    try:
        yield driver
    finally:
        for job_id in driver.existing():
            driver.discard(job_id)
        driver.close()
        assert directories_named(parent) == []


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """Ends what a test started, at the latest when the test ends."""
    with ExitStack() as stack:
        yield stack
