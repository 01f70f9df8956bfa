import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from joblet.common import config, pki
from joblet.common.errors import AlreadyExists, ConfigError
from rnx import settings
from rnx.cli import Flags
from rnx.errors import BadUsage
from rnx.local import layout
from rnx.local.layout import Layout, Ports


@pytest.fixture
def where(tmp_path: Path) -> Layout:
    return layout.layout_of(tmp_path / "dir")


def public_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def prepared(where: Layout, port: int | None = None) -> Ports:
    chosen = layout.choose_ports(where, port)
    layout.prepare(where, chosen)
    return chosen


def test_what_the_services_read(where: Layout) -> None:
    port = public_port()
    chosen = prepared(where, port)
    loaded = config.load(where.config)
    assert loaded.gateway.listen == f"127.0.0.1:{port}"
    assert loaded.executor.gateways == (f"127.0.0.1:{port}",)
    assert loaded.executor.advertise == loaded.executor.listen == f"127.0.0.1:{chosen.listen['executor']}"
    assert loaded.executor.logstore_address == loaded.logstore.listen
    assert loaded.executor.runtime_address == loaded.runtime.listen
    assert loaded.executor.logstore_socket.resolve() == loaded.logstore.socket.resolve() == where.socket
    assert loaded.gateway.logstore_socket == loaded.executor.logstore_socket
    assert loaded.executor.cgroup_parent == where.cgroup_parent
    for section in (loaded.gateway, loaded.executor, loaded.logstore, loaded.runtime):
        for file in (section.tls.ca, section.tls.cert, section.tls.key):
            assert file.resolve().is_relative_to(where.directory)
            assert file.exists()
    database = Path(loaded.gateway.database.partition(":///")[2])
    for path in (database.parent, loaded.executor.state_dir, loaded.logstore.directory, loaded.runtime.directory):
        assert path.resolve().is_relative_to(where.state)
        assert path.is_dir()
    assert len({*chosen.listen.values(), *chosen.metrics.values()}) == 8
    assert where.state.stat().st_mode & 0o777 == 0o700


def test_what_rnx_reads(where: Layout, tmp_path: Path) -> None:
    port = public_port()
    prepared(where, port)
    for node, role in ((None, "admin"), ("viewer", "viewer")):
        found = settings.resolve(Flags(config=str(where.client_config), node=node), {}, tmp_path, None)
        assert found.address == f"127.0.0.1:{port}"
        assert found.cert.path is not None
        assert pki.describe(found.cert.path.read_bytes()).identity.ou == role


def test_ports_stay_and_move_when_taken(where: Layout) -> None:
    first = prepared(where, public_port())
    assert prepared(where) == first
    with socket.create_server(("127.0.0.1", first.listen["logstore"])):
        moved = prepared(where)
    assert moved.listen["logstore"] != first.listen["logstore"]
    assert moved.metrics == first.metrics
    assert config.load(where.config).executor.logstore_address == f"127.0.0.1:{moved.listen['logstore']}"


def test_a_taken_public_port_is_refused_and_nothing_written(where: Layout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AlreadyExists, match=f"^port {port} is already in use$") as raised:
            layout.choose_ports(where, port)
    assert "pid" in (raised.value.hint or "")
    assert not where.directory.exists()


def test_what_the_user_wrote_stays(where: Layout) -> None:
    prepared(where, public_port())
    text = where.config.read_text()
    where.config.write_text(text + "joblet:  # mine\n  maxConcurrentJobs: 3\n")
    again = where.config.read_text()
    prepared(where)
    assert where.config.read_text() == again, "written again although nothing changed"
    document = yaml.safe_load(again)
    document["gateway"]["nodeLeaseSeconds"] = 7
    where.config.write_text(yaml.safe_dump(document))
    prepared(where, public_port())
    loaded = config.load(where.config)
    assert (loaded.joblet.max_concurrent_jobs, loaded.gateway.node_lease_seconds) == (3, 7)


def test_a_mistake_in_it_is_named(where: Layout) -> None:
    prepared(where, public_port())
    where.config.write_text(where.config.read_text() + "joblet: {maxJobs: 3}\n")
    with pytest.raises(ConfigError, match=r"joblet\.maxJobs: unknown key"):
        prepared(where)


def test_certificates_stay_until_they_are_about_to_end(where: Layout) -> None:
    prepared(where, public_port())
    bundle = pki.Bundle(where.certs)
    before = bundle.cert("gateway").read_bytes()
    ca = pki.read_pair(bundle.ca_cert, bundle.ca_key)
    soon = datetime.now(UTC) + timedelta(days=2)
    ending = pki.issue(ca, "node-x", "node", hosts=["localhost"], not_after=soon)
    pki.write_pair(ending, bundle.cert("node"), bundle.key("node"))
    prepared(where)
    assert bundle.cert("gateway").read_bytes() == before
    renewed = pki.describe(bundle.cert("node").read_bytes())
    assert renewed.identity.not_after > soon
    assert (renewed.identity.common_name, renewed.identity.ou) == ("node-x", "node")
    assert set(renewed.hosts) == {"node-x", "localhost"}


def test_one_directory_has_one_name(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    names = {layout.layout_of(tmp_path / name).cgroup_parent for name in ("dir", "link", "dir/../dir")}
    assert len(names) == 1
    assert layout.layout_of(tmp_path / "other").cgroup_parent not in names


@pytest.mark.parametrize("name", ["a\nb", "a?b"])
def test_directories_that_no_configuration_can_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadUsage, match="characters that cannot stand in a configuration"):
        layout.layout_of(tmp_path / name)


def test_a_directory_of_any_other_name(tmp_path: Path) -> None:
    where = layout.layout_of(tmp_path / "ein Ordner: ü #1 % & 'x'")
    prepared(where, public_port())
    assert config.load(where.config).gateway.database.endswith("state/gateway/gateway.db")


def test_node_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    for hostname, node in (
        ("Box-7.example.com", "box-7"),
        ("", "local"),
        ("-x", "local"),
        ("ü", "local"),
        ("a" * 64, "local"),
    ):
        monkeypatch.setattr(socket, "gethostname", lambda hostname=hostname: hostname)
        assert layout.node_id() == node
