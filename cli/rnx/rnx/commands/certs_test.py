import json
from pathlib import Path

from joblet.common import pki
from rnx.conftest import Gateway, Rnx


def test_init_writes_what_the_flags_default_to(rnx: Rnx, tmp_path: Path) -> None:
    result = rnx("certs", "init", "--host", "joblet.example.com")
    assert result.code == 0
    assert "Certificates created in certs:" in result.lines
    for name in ("ca", "client", "admin-client", "viewer-client", "gateway", "node"):
        assert (tmp_path / f"certs/{name}-cert.pem").exists()
        assert (tmp_path / f"certs/{name}-key.pem").stat().st_mode & 0o777 == 0o600
    shown = json.loads(rnx("certs", "show", "--json", "certs/gateway-cert.pem").out)
    assert {"localhost", "127.0.0.1", "::1", "joblet.example.com"} <= set(shown["hosts"])


def test_init_never_replaces_a_ca(rnx: Rnx, tmp_path: Path) -> None:
    assert rnx("certs", "init", "--dir", "x").code == 0
    before = (tmp_path / "x/ca-cert.pem").read_bytes()
    again = rnx("certs", "init", "--dir", "x")
    assert (again.code, again.err.splitlines()[0]) == (1, "Error: x already holds a CA")
    assert (tmp_path / "x/ca-cert.pem").read_bytes() == before


def test_issue_and_show(rnx: Rnx, tmp_path: Path) -> None:
    rnx("certs", "init", "--dir", "x")
    arguments = ("certs", "issue", "--dir", "x", "--role", "viewer", "--name", "Jane Doe", "--days", "7")
    assert rnx(*arguments).code == 0
    cert = tmp_path / "x/Jane-Doe-client-cert.pem"
    lines = rnx("certs", "show", cert).lines
    assert "Name: Jane Doe" in lines
    assert "Role: viewer" in lines
    assert any(line.startswith("DaysLeft: 6") for line in lines)
    before = cert.read_bytes()
    refused = rnx(*arguments)
    assert refused.code == 2
    assert "already there: x/Jane-Doe-client-cert.pem, x/Jane-Doe-client-key.pem" in refused.err
    assert cert.read_bytes() == before
    assert rnx(*arguments, "--force").code == 0
    assert cert.read_bytes() != before


def test_a_certificate_issued_is_accepted(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    directory = gateway.bundle.directory
    assert rnx("certs", "issue", "--dir", directory, "--role", "admin", "--name", "jbtest", "--force").code == 0
    flags = gateway.flags_for(directory / "jbtest-client-cert.pem", directory / "jbtest-client-key.pem")
    assert rnx(*flags, "list").code == 0


def test_names_cannot_leave_the_directory(rnx: Rnx, tmp_path: Path) -> None:
    rnx("certs", "init", "--dir", "x")
    assert rnx("certs", "issue", "--dir", "x", "--role", "admin", "--name", "../../evil").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_is_refused(rnx: Rnx, tmp_path: Path) -> None:
    rnx("certs", "init", "--dir", "x")
    assert rnx("certs", "show", "absent.pem").code == 2
    assert "not a PEM certificate" in rnx("certs", "show", "x/ca-key.pem").err
    assert rnx("certs", "issue", "--dir", "absent", "--role", "admin", "--name", "a").code == 2
    assert rnx("certs", "issue", "--dir", "x", "--role", "gateway", "--name", "a").code == 2
    assert rnx("certs", "issue", "--dir", "x", "--role", "admin", "--name", "a" * 65).code == 1
    assert rnx("certs", "issue", "--dir", "x", "--role", "admin", "--name", "a", "--days", "0").code == 2
    assert pki.Bundle(tmp_path / "x").ca_cert.exists()
