"""For every test here: joblet.common has its say about TLS before a test imports grpc, and nodes have time to come."""

import pytest

import joblet.common  # noqa: F401 - imported for what it sets
from joblet.gateway import locallines, localstream, nodes
from joblet.gateway.testing import TIMEOUT_SECONDS


@pytest.fixture(autouse=True)
def _time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node that was just started again or is asked whether it is there, and of who is on its machine to answer: on
    a busy machine it takes longer than a client should wait."""
    monkeypatch.setattr(nodes, "CONNECT_SECONDS", TIMEOUT_SECONDS)
    monkeypatch.setattr(nodes, "PROBE_SECONDS", TIMEOUT_SECONDS)
    monkeypatch.setattr(localstream, "ANSWER_SECONDS", TIMEOUT_SECONDS)
    monkeypatch.setattr(locallines, "ANSWER_SECONDS", TIMEOUT_SECONDS)
