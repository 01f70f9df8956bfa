"""Order of the tests: those that make namespaces in this process come first, whatever else is run.

And what the tests of jobinit share.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from joblet.executor import syscalls
from joblet.executor.jobinit_for_tests import Job, Node, node, unlimited


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A process whose fork has threads cannot enter a user namespace (unshare(2), EINVAL); once a test has used grpc,
    every fork has them."""
    items.sort(key=lambda item: item.get_closest_marker("single_threaded") is None)


@pytest.fixture(scope="module", name="node")
def _node() -> Iterator[Node]:
    with node() as made:
        yield made


@pytest.fixture
def job(node: Node, tmp_path: Path) -> Iterator[Job]:
    with Job(node, tmp_path / "jbtest-job", unlimited()) as made:
        yield made


@pytest.fixture
def small_log(tmp_path: Path) -> Iterator[Path]:
    """A log directory on a file system of 256 KiB."""
    directory = tmp_path / "jbtest-log"
    directory.mkdir()
    syscalls.mount("jbtest", str(directory), "tmpfs", 0, "size=256k")
    try:
        yield directory
    finally:
        syscalls.detach(str(directory))
