"""Fixtures of the whole-system tests; each test asks a real system through rnx or the public port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import joblet.common as _  # noqa: F401  # isort: skip  # TLS is settled before limited imports grpc

import leftovers
import pytest
from limited import Limited, limited_system
from local_system import LocalSystem, give_a_long_lease, local_system, wait_for


@pytest.fixture(scope="session")
def clean_machine() -> Iterator[None]:
    """Fails the run when it leaves anything behind that was not there before."""
    before = leftovers.snapshot()
    yield
    try:
        wait_for("machine as before", lambda: not leftovers.snapshot() - before)
    except AssertionError:
        pytest.fail("left on the machine:\n" + "\n".join(sorted(leftovers.snapshot() - before)))


@pytest.fixture(scope="session")
def joblet(clean_machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """One system shared by the tests that do not hurt it."""
    with local_system(tmp_path_factory.mktemp("jbtest")) as system:
        yield system


@pytest.fixture(scope="session")
def limited(clean_machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """A system with small directories and a disk that jobs can read, for the tests of limits."""
    with limited_system(tmp_path_factory.mktemp("jbtest")) as system:
        yield system


@pytest.fixture
def own_joblet(clean_machine: None, tmp_path: Path) -> Iterator[LocalSystem]:
    """A system of the test's own, for tests that kill services or stop it."""
    give_a_long_lease(tmp_path / "jbtest")
    with local_system(tmp_path / "jbtest") as system:
        yield system
