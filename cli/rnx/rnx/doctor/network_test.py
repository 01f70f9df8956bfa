import pytest

from rnx.doctor import network
from rnx.doctor.findings import Status

DOCKER = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n"


def test_forwarding() -> None:
    assert network.forwarding("1\n").found == "on"
    assert "sysctl -w net.ipv4.ip_forward=1" in network.forwarding("0\n").found


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (DOCKER, "policy DROP, set by Docker; "),
        ("-P FORWARD DROP\n", "policy DROP; "),
        ("-P FORWARD ACCEPT\n", "drops nothing by policy"),
        ("", "no packet filter is loaded"),
        (None, "a packet filter is loaded, and there is no iptables"),
    ],
)
def test_the_chain_is_information(rules: str | None, text: str) -> None:
    finding = network.forward_chain(rules)
    assert finding.status is Status.OK
    assert finding.found.startswith(text)
