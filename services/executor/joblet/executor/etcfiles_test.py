from pathlib import Path

import pytest

from joblet.executor.etcfiles import populate


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host's /etc with what jobs need and what they must not see."""
    etc = tmp_path / "host"
    files = {
        "passwd": "admin:x:0:0::/root:/bin/sh\n", "shadow": "admin:hash\n", "hosts": "10.0.0.1 secret-host\n",
        "npmrc": "token=1\n", "environment": "TOKEN=1\n", "ld.so.cache": "cache", "mime.types": "text/plain txt\n",
        "ssl/openssl.cnf": "x", "ssl/private/key.pem": "k", "ssl/certs/own.pem": "-----BEGIN PRIVATE KEY-----\n",
        "ssl/certs/ca.pem": "-----BEGIN CERTIFICATE-----\n", "ssh/ssh_host_key": "k", "python3.11/site.py": "x",
        "java-17/lib/security/cacerts": "x", "joblet/node-key.pem": "k",
    }  # fmt: skip
    for name, content in files.items():
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).write_text(content)
        (etc / name).chmod(0o644)
    (etc / "services").write_text("unreadable for others")
    (etc / "services").chmod(0o640)
    (etc / "fonts").mkdir()
    (etc / "fonts" / "fonts.conf").write_text("x")
    (etc / "fonts").chmod(0o700)
    (etc / "localtime").symlink_to("/usr/share/zoneinfo/Etc/UTC")
    (tmp_path / "resolver").write_text("nameserver 192.0.2.1\n")
    (etc / "resolv.conf").symlink_to(tmp_path / "resolver")
    return etc


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


def test_only_the_listed_readable_and_harmless_files_arrive(host: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    populate(host, job)
    assert names(job) == {
        "passwd", "group", "hosts", "hostname", "nsswitch.conf", "resolv.conf", "mtab", "localtime", "ld.so.cache",
        "mime.types", "ssl/openssl.cnf", "ssl/certs/ca.pem", "python3.11/site.py", "java-17/lib/security/cacerts",
    }  # fmt: skip


def test_accounts_and_names_are_ours(host: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    populate(host, job)
    assert "admin" not in (job / "passwd").read_text()
    assert "joblet:x:1000:1000:" in (job / "passwd").read_text()
    assert "secret-host" not in (job / "hosts").read_text()
    assert (job / "hostname").read_text().strip() in (job / "hosts").read_text()


def test_the_resolver_is_copied_through_its_link(host: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    populate(host, job)
    assert not (job / "resolv.conf").is_symlink()
    assert (job / "resolv.conf").read_text() == "nameserver 192.0.2.1\n"
    assert (job / "localtime").readlink() == Path("/usr/share/zoneinfo/Etc/UTC")


def test_the_same_twice_is_refused(host: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    populate(host, job)
    with pytest.raises(FileExistsError):
        populate(host, job)
