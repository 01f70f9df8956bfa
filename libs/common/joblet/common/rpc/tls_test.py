"""What start-up says about certificates and libraries that cannot be used."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from joblet.common.errors import StartError
from joblet.common.rpc.echo_fixture import Authority
from joblet.common.rpc.tls import ServerCertificates


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.server_files()
    files.key.write_bytes(authority.server_files().key.read_bytes())
    with pytest.raises(StartError, match=f"certificates of gateway: {files.key} is not the key of {files.cert}$"):
        ServerCertificates("gateway", files)


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_a_file_that_is_missing_or_no_pem_is_named(tmp_path: Path, name: str) -> None:
    files = Authority(tmp_path).server_files()
    broken: Path = getattr(files, name)
    broken.write_bytes(b"nonsense")
    with pytest.raises(StartError, match=f"certificates of gateway: {broken} holds no usable PEM"):
        ServerCertificates("gateway", files)
    broken.unlink()
    with pytest.raises(StartError, match=f"certificates of gateway: {broken}: No such file or directory$"):
        ServerCertificates("gateway", files)


def test_rsa_is_refused_because_tls_1_2_would_work_with_it(tmp_path: Path) -> None:
    files = Authority(tmp_path).server_files()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name, now = x509.Name([]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(StartError, match=f"{files.cert} is not an ECDSA certificate$"):
        ServerCertificates("gateway", files)


@pytest.mark.parametrize(("first", "in_time"), [("joblet.common", True), ("joblet.api", True), ("grpc", False)])
@pytest.mark.parametrize("setting", ["GRPC_SSL_CIPHER_SUITES", "GRPC_ENABLE_FORK_SUPPORT"])
def test_whether_grpc_got_its_settings_is_known(first: str, in_time: bool, setting: str) -> None:
    script = f"import os; os.environ.pop({setting!r}, None)\nimport {first}, grpc, joblet.common\n"
    script += "print(joblet.common.grpc_is_set)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout == f"{in_time}\n"


FORKS = """if True:
    import os, subprocess
    from concurrent.futures import ThreadPoolExecutor
    import joblet.common, grpc
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("localhost:0")
    server.start()
    channel = grpc.insecure_channel(f"localhost:{port}")
    grpc.channel_ready_future(channel).result(60)
    for _ in range(300):  # with a function to call before exec, so that it is fork(2) and not vfork(2)
        done = subprocess.run(["echo", "here"], preexec_fn=lambda: None, capture_output=True)
        if (done.returncode, done.stdout, done.stderr) != (0, b"here\\n", b""):
            print(done, flush=True)
    os._exit(0)
"""


def test_a_process_that_uses_grpc_can_fork() -> None:
    result = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=120)
    assert (result.stdout, result.stderr) == ("", "")
