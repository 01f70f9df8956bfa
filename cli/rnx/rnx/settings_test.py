from pathlib import Path

import pytest

from joblet.common.errors import ConfigError
from rnx import settings
from rnx.cli import Flags
from rnx.errors import BadUsage
from rnx.settings import Settings

NODES = """\
version: "1"
nodes:
  default: {{address: "{name}:1", cert: {name}-cert, key: sub/key, ca: /ca}}
  other: {{address: "other:2"}}
"""
PEM = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A working directory and a home, both without configuration."""
    (tmp_path / "home/.rnx").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    return tmp_path / "here", tmp_path / "home"


def test_precedence(places: tuple[Path, Path]) -> None:
    here, home = places
    variables: dict[str, str] = {}
    given = {"server": None, "config": None}

    def address() -> str:
        return settings.resolve(Flags(**given), variables, here, home).address  # type: ignore[arg-type]

    assert address() == "localhost:50051"
    (home / ".rnx/rnx-config.yml").write_text(NODES.format(name="home"))
    assert address() == "home:1"
    (here / "rnx-config.yml").write_text(NODES.format(name="here"))
    assert address() == "here:1"
    (here / "named.yml").write_text(NODES.format(name="named"))
    given["config"] = "named.yml"  # type: ignore[assignment]
    assert address() == "named:1"
    variables["JOBLET_SERVER"] = "variable:1"
    assert address() == "variable:1"
    given["server"] = "flag:1"  # type: ignore[assignment]
    assert address() == "flag:1"


def test_each_value_by_itself(places: tuple[Path, Path]) -> None:
    here, home = places
    (here / "rnx-config.yml").write_text(NODES.format(name="here"))
    variables = {"JOBLET_KEY_PATH": "~/k", "JOBLET_CA_PATH": ""}
    found = settings.resolve(Flags(cert="c"), variables, here, home)
    assert found.address == "here:1"
    assert (found.cert.path, found.cert.origin) == (here / "c", "given with --cert")
    assert (found.key.path, found.key.origin) == (Path("~/k").expanduser(), "given with JOBLET_KEY_PATH")
    assert (found.ca.path, found.ca.origin) == (Path("/ca"), f"given in {here}/rnx-config.yml for node default")


def test_defaults_are_the_specifications(places: tuple[Path, Path]) -> None:
    here, _ = places
    found = settings.resolve(Flags(), {}, here, None)
    assert found == Settings(
        address="localhost:50051",
        address_origin="the default",
        cert=settings.Pem(here / "certs/client-cert.pem", None, "the default"),
        key=settings.Pem(here / "certs/client-key.pem", None, "the default"),
        ca=settings.Pem(here / "certs/ca-cert.pem", None, "the default"),
    )


def test_paths_start_at_the_file(places: tuple[Path, Path]) -> None:
    here, home = places
    (home / ".rnx/rnx-config.yml").write_text(NODES.format(name="home"))
    found = settings.resolve(Flags(), {}, here, home)
    assert (found.cert.path, found.key.path) == (home / ".rnx/home-cert", home / ".rnx/sub/key")


def test_nodes(places: tuple[Path, Path]) -> None:
    here, home = places
    (here / "rnx-config.yml").write_text(NODES.format(name="here"))
    other = settings.resolve(Flags(node="other"), {}, here, home)
    assert (other.address, other.cert.origin) == ("other:2", "the default")
    with pytest.raises(BadUsage, match='no node "third" in') as raised:
        settings.resolve(Flags(node="third"), {}, here, home)
    assert raised.value.hint == "--node takes one of: default, other"
    (here / "rnx-config.yml").write_text("nodes: {only: {address: 'only:3'}}")
    assert settings.resolve(Flags(), {}, here, home).address == "only:3"
    (here / "rnx-config.yml").write_text("nodes: {a: {address: 'a:3'}, b: {address: 'b:3'}}")
    with pytest.raises(BadUsage, match='no node "default" in'):
        settings.resolve(Flags(), {}, here, home)


def test_embedded_pem(places: tuple[Path, Path]) -> None:
    here, home = places
    indented = PEM.replace("\n", "\n      ")
    (here / "rnx-config.yml").write_text(f"nodes:\n  default:\n    cert: |\n      {indented}")
    found = settings.resolve(Flags(), {}, here, home)
    assert (found.cert.path, found.cert.text) == (None, PEM)
    assert found.key.path == here / "certs/client-key.pem"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("nodes: {default: {adress: 'x:1'}}",
         ["nodes.default.adress: unknown key (allowed: address, cert, key, ca)"]),
        ("node: {}\nversion: 7", ["node: unknown key (allowed: version, nodes)", 'version: expected "1", got "7"',
                                  "nodes: expected a mapping of one or more nodes"]),
        ("nodes: {default: {address: 5, cert: ''}}",
         ["nodes.default.address: expected a text, got 5", "nodes.default.cert: expected a text, got ''"]),
        ("nodes: {default: x}", ["nodes.default: expected a mapping with address, cert, key and ca"]),
        ("nodes: []", ["nodes: expected a mapping of one or more nodes"]),
        ("[]", ["the file: expected a mapping with nodes"]),
        ("", ["the file: expected a mapping with nodes"]),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_name_all_at_once(tmp_path: Path, text: str, problems: list[str]) -> None:
    file = tmp_path / "rnx.yml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        settings.read_nodes(file)
    assert list(raised.value.problems) == problems
    assert str(file) in raised.value.message


def test_a_file_that_is_not_there_or_not_yaml(places: tuple[Path, Path]) -> None:
    here, home = places
    for name, text in (("absent.yml", None), ("bad.yml", "nodes: [")):
        if text is not None:
            (here / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            settings.resolve(Flags(config=name), {}, here, home)


@pytest.mark.parametrize("address", ["localhost:50051", "10.0.0.1:1", "[::1]:50051", "node-1.example.com:65535"])
def test_addresses(address: str) -> None:
    assert settings.checked_address(address, "here") == address


@pytest.mark.parametrize(
    "address", ["", "localhost", ":1", "localhost:", "localhost:0", "localhost:65536", "localhost:x", "::1:5", "a b:1",
                "unix:/tmp/x:1", "http://x:1", "user@x:1", "x:-1", "x:१"],
)  # fmt: skip
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(BadUsage, match=r"expected a server as host:port .* \(here\)"):
        settings.checked_address(address, "here")
