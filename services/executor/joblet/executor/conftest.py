"""Order of the tests: those that make namespaces in this process come first, whatever else is run."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A process whose fork has threads cannot enter a user namespace (unshare(2), EINVAL); once a test has used grpc,
    every fork has them."""
    items.sort(key=lambda item: item.get_closest_marker("single_threaded") is None)
