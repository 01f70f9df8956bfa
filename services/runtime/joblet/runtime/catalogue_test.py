from pathlib import Path

import pytest

from joblet.common.errors import Unimplemented
from joblet.runtime.catalogue import Catalogue


def test_an_empty_directory_holds_no_runtime(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "runtimes"
    assert list(Catalogue(directory).runtimes()) == []
    assert directory.is_dir()
    (directory / ".lock").touch()
    assert list(Catalogue(directory).runtimes()) == []


def test_what_cannot_be_read_yet_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    (tmp_path / "python-3.11").mkdir()
    with pytest.raises(Unimplemented, match=r"reading installed runtimes \(python-3\.11\)"):
        Catalogue(tmp_path).runtimes()
