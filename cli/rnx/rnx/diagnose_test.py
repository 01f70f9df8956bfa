import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from joblet.common import pki
from joblet.common.pki import Bundle, KeyPair
from rnx.conftest import Gateway, Result, Rnx, a_gateway, serve

FAILED = "certificate verify failed"


def issue(
    ca: KeyPair, directory: Path, *, role: str = "admin", host: str = "localhost", start: float = -2, end: float = 1
) -> tuple[Path, Path]:
    """A certificate valid from `start` to `end`, both in days from now."""
    now = datetime.now(UTC)
    not_before, not_after = now + timedelta(days=start), now + timedelta(days=end)
    pair = pki.issue(ca, "jbtest", role, hosts=[host], not_before=not_before, not_after=not_after)
    pki.write_pair(pair, directory / "x-cert.pem", directory / "x-key.pem")
    return directory / "x-cert.pem", directory / "x-key.pem"


def ca_of(bundle: Bundle) -> KeyPair:
    return pki.read_pair(bundle.ca_cert, bundle.ca_key)


def said(result: Result) -> tuple[int, str, str]:
    """Exit code, error and hint."""
    error, _, hint = result.err.strip().partition("\n")
    assert error.startswith("Error: ")
    assert not hint or hint.startswith("Hint: ")
    assert result.out == b""
    return result.code, error.removeprefix("Error: "), hint.removeprefix("Hint: ")


def test_certificates_that_fit(rnx: Rnx, gateway: Gateway) -> None:
    assert rnx(*gateway.flags, "list").code == 0


@pytest.mark.parametrize(("missing", "named"), [("cert", "--cert"), ("key", "--key")])
def test_missing_client_files(rnx: Rnx, gateway: Gateway, tmp_path: Path, missing: str, named: str) -> None:
    code, error, hint = said(rnx(*gateway.flags, f"--{missing}={tmp_path}/absent.pem", "list"))
    assert (code, error) == (3, "failed to extract client role: no TLS information found")
    assert f"{tmp_path}/absent.pem (given with {named}) does not exist" in hint


def test_no_files_at_all(rnx: Rnx, tmp_path: Path) -> None:
    code, error, hint = said(rnx("list"))
    assert (code, error) == (3, "failed to extract client role: no TLS information found")
    assert f"{tmp_path}/certs/client-cert.pem (the default)" in hint


def test_unreadable_and_empty_files(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    assert "Is a directory" in said(rnx(*gateway.flags, f"--cert={tmp_path}", "list"))[2]
    (tmp_path / "empty.pem").touch()
    assert "holds no PEM" in said(rnx(*gateway.flags, f"--cert={tmp_path}/empty.pem", "list"))[2]
    code, error, _ = said(rnx(*gateway.flags, f"--ca={tmp_path}/absent.pem", "list"))
    assert (code, error) == (3, f"{FAILED}: no CA certificate to check {gateway.address} with")


def test_garbage_between_the_pem_lines(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    assert said(rnx(*gateway.flags, f"--cert={bad}", "list"))[:2] == (3, f"{FAILED}: no certificate in {bad}")
    assert said(rnx(*gateway.flags, f"--key={bad}", "list"))[:2] == (3, f"{FAILED}: no private key in {bad}")
    assert said(rnx(*gateway.flags, f"--ca={bad}", "list"))[:2] == (3, f"{FAILED}: no CA certificate in {bad}")


def test_expired_certificate(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    cert, key = issue(ca_of(gateway.bundle), tmp_path, end=-1)
    code, error, hint = said(rnx(*gateway.flags_for(cert, key), "list"))
    assert (code, error) == (3, f"{FAILED}: certificate has expired")
    assert str(cert) in hint


def test_certificate_of_tomorrow(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    cert, key = issue(ca_of(gateway.bundle), tmp_path, start=1, end=2)
    assert said(rnx(*gateway.flags_for(cert, key), "list"))[:2] == (3, f"{FAILED}: certificate is not yet valid")


def test_key_of_another_certificate(rnx: Rnx, gateway: Gateway) -> None:
    cert, key = gateway.bundle.cert("admin-client"), gateway.bundle.key("viewer-client")
    code, error, hint = said(rnx(*gateway.flags_for(cert, key), "list"))
    assert (code, error) == (3, f"{FAILED}: the private key does not belong to the certificate")
    assert str(cert) in hint
    assert str(key) in hint


def test_client_certificate_of_another_ca(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    cert, key = issue(pki.create_ca("jbtest other"), tmp_path)
    code, error, hint = said(rnx(*gateway.flags_for(cert, key), "list"))
    assert (code, error) == (3, f"{FAILED}: the client certificate was not issued by the server's CA")
    assert "CN=jbtest other" in hint


def test_wrong_ca_for_the_server(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(pki.create_ca("jbtest other").cert)
    flags = (*gateway.flags, f"--ca={tmp_path}/ca.pem")
    code, error, hint = said(rnx(*flags, "list"))
    assert (code, error) == (3, f"{FAILED}: the certificate of {gateway.address} was not issued by our CA")
    assert f"{tmp_path}/ca.pem (given with --ca)" in hint


def test_certificate_of_the_server_has_expired(rnx: Rnx, bundle: Bundle, tmp_path: Path) -> None:
    cert, key = issue(ca_of(bundle), tmp_path, role="gateway", end=-1)
    gateway = a_gateway(bundle)
    server = serve(gateway, cert, key)
    try:
        code, error, hint = said(rnx(*gateway.flags, "list"))
    finally:
        server.stop(None).wait()
    assert (code, error) == (3, f"{FAILED}: certificate has expired")
    assert "the server's certificate" in hint


def test_server_called_by_a_name_it_does_not_have(rnx: Rnx, bundle: Bundle, tmp_path: Path) -> None:
    cert, key = issue(ca_of(bundle), tmp_path, role="gateway", host="elsewhere")
    gateway = a_gateway(bundle)
    server = serve(gateway, cert, key)
    try:
        code, error, hint = said(rnx(*gateway.flags, "list"))
        by_address = said(rnx(*gateway.flags, f"--server=127.0.0.1:{gateway.port}", "list"))[1]
    finally:
        server.stop(None).wait()
    assert code == 3
    assert error == f"{FAILED}: hostname mismatch, certificate is not valid for 'localhost'"
    assert "call it by a name that the certificate has" in hint
    assert by_address == f"{FAILED}: IP address mismatch, certificate is not valid for '127.0.0.1'"


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that treats each connection with `answer`; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed: the test is over
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"localhost:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_nobody_listens(rnx: Rnx, gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    code, error, hint = said(rnx(*gateway.flags, f"--server={address}", "list"))
    assert (code, error) == (3, f"cannot reach {address}: connection refused")
    assert "given with --server" in hint


def test_unknown_host(rnx: Rnx, gateway: Gateway) -> None:
    code, error, _ = said(rnx(*gateway.flags, "--server=nowhere.invalid:50051", "list"))
    assert (code, error) == (3, "cannot reach nowhere.invalid:50051: unknown host name")


def test_a_server_without_tls(rnx: Rnx, gateway: Gateway) -> None:
    with listening(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address:
        code, error, _ = said(rnx(*gateway.flags, f"--server={address}", "list"))
    assert (code, error) == (3, f"cannot reach {address}: it does not speak TLS")


def test_a_server_that_hangs_up(rnx: Rnx, gateway: Gateway) -> None:
    with listening(lambda connection: None) as address:
        code, error, _ = said(rnx(*gateway.flags, f"--server={address}", "list"))
    assert code == 3
    assert error.startswith(f"cannot reach {address}: connection ")


def test_a_server_that_is_silent(rnx: Rnx, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rnx.client.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("rnx.diagnose.PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts in the kernel only
        address = f"localhost:{server.getsockname()[1]}"
        code, error, _ = said(rnx(*gateway.flags, f"--server={address}", "list"))
    assert (code, error) == (3, f"cannot reach {address}: it accepts connections but does not answer")


def test_no_tls_version_in_common(rnx: Rnx, gateway: Gateway) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(gateway.bundle.cert("gateway"), gateway.bundle.key("gateway"))
    context.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384")  # none for our certificate: no handshake can succeed

    def answer(connection: socket.socket) -> None:
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            return

    with listening(answer) as address:
        code, error, _ = said(rnx(*gateway.flags, f"--server={address}", "list"))
    assert (code, error) == (3, f"cannot reach {address}: no TLS version or cipher in common")


def test_embedded_pem(rnx: Rnx, gateway: Gateway, tmp_path: Path) -> None:
    texts = {
        "cert": gateway.bundle.cert("admin-client").read_text(),
        "key": gateway.bundle.key("viewer-client").read_text(),
        "ca": gateway.bundle.ca_cert.read_text(),
    }
    indented = {name: text.replace("\n", "\n      ").rstrip() for name, text in texts.items()}
    (tmp_path / "rnx-config.yml").write_text(
        f'version: "1"\nnodes:\n  default:\n    address: {gateway.address}\n'
        + "".join(f"    {name}: |\n      {text}\n" for name, text in indented.items())
    )
    _, error, hint = said(rnx("list"))
    assert error == f"{FAILED}: the private key does not belong to the certificate"
    assert f"the PEM given in {tmp_path}/rnx-config.yml for node default" in hint
