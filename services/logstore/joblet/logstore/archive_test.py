"""The archive as a directory; tests/e2e/log_archive_test.py has the one behind S3's protocol."""

import asyncio
from pathlib import Path

import pytest

from joblet.common.config import LogArchiveConfig
from joblet.common.errors import JobNotFound, StartError, Unavailable
from joblet.logstore.archive import Archive, credentials

JOB = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
GOLDEN = Path(__file__).parent / "testdata" / "sealed-v1.golden"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(LogArchiveConfig(url=f"file://{tmp_path}/archive"))


def test_a_copy_reads_as_the_original_until_it_is_deleted(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(JobNotFound):
        archive.open(JOB)
    asyncio.run(archive.put(JOB, GOLDEN))
    asyncio.run(archive.put(JOB, GOLDEN))
    assert (tmp_path / "archive" / JOB / "sealed").read_bytes() == GOLDEN.read_bytes()
    log = archive.open(JOB)
    assert log.read(0, 1 << 20).startswith(b"line 0 of the output\n")
    assert log.read(log.end - 7, 100) == b"output\n"
    assert asyncio.run(archive.delete(JOB)) is True
    assert asyncio.run(archive.delete(JOB)) is False


def test_a_file_that_is_gone_is_no_copy(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the archive of logs does not answer"):
        asyncio.run(archive.put(JOB, tmp_path / "missing"))


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="the archive of logs cannot be used"):
        Archive(LogArchiveConfig(url=f"file://{tmp_path}/file/archive"))


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        ("[default]\naws_access_key_id=a\naws_secret_access_key=SECRET\n", 0o644, "must not be accessible to others"),
        ("[default]\naws_secret_access_key=SECRET\n", 0o600, "has no 'aws_access_key_id'"),
        ("[other]\naws_secret_access_key=SECRET\n", 0o600, "has no 'default'"),
        ("SECRET\n", 0o600, "is not a file of credentials"),
    ],
)
def test_a_bad_file_of_credentials_is_refused_without_a_word_of_it(
    tmp_path: Path, content: str, mode: int, problem: str
) -> None:
    file = tmp_path / "credentials"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(StartError, match=problem) as caught:
        credentials(file)
    assert "SECRET" not in str(caught.value)


def test_credentials_as_the_aws_tools_write_them(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = AK\naws_secret_access_key = a%b/c\n")
    file.chmod(0o600)
    assert credentials(file) == {"access_key_id": "AK", "secret_access_key": "a%b/c"}
