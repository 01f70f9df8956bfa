import os
from pathlib import Path

import pytest

from joblet.common.errors import Unavailable
from joblet.executor import statedirs
from joblet.executor.statedirs import StateDirectories


def write_record(states: StateDirectories, job_id: str) -> None:
    (states.path(job_id) / "exit").write_bytes(b"how it ended")


def test_the_directory_of_a_job_that_is_over_serves_the_next_one_without_its_record(tmp_path: Path) -> None:
    states = StateDirectories(tmp_path)
    os.close(states.make("first"))
    inode = states.path("first").stat().st_ino
    write_record(states, "first")
    states.init_left("first")
    states.remove("first")
    assert states.job_ids() == []
    os.close(states.make("second"))
    assert states.path("second").stat().st_ino == inode
    assert [entry.name for entry in states.path("second").iterdir()] == ["exit.tmp"]


def test_a_directory_whose_init_was_not_seen_to_end_is_not_used_again(tmp_path: Path) -> None:
    states = StateDirectories(tmp_path)
    os.close(states.make("first"))
    write_record(states, "first")
    states.remove("first")
    os.close(states.make("second"))
    assert list(states.path("second").iterdir()) == []


def test_what_an_earlier_attempt_left_does_not_stay(tmp_path: Path) -> None:
    states = StateDirectories(tmp_path)
    for job_id in ("first", "again"):
        os.close(states.make(job_id))
        write_record(states, job_id)
    states.init_left("first")
    states.remove("first")
    os.close(states.make("again"))
    assert [entry.name for entry in states.path("again").iterdir()] == ["exit.tmp"]


def test_a_directory_that_an_init_still_has_is_left_alone(tmp_path: Path) -> None:
    of_init = StateDirectories(tmp_path).make("job")
    write_record(StateDirectories(tmp_path), "job")
    states = StateDirectories(tmp_path)
    with pytest.raises(Unavailable, match="still ending"):
        states.make("job")
    assert [entry.name for entry in states.path("job").iterdir()] == ["exit"]
    os.close(of_init)
    os.close(states.make("job"))
    assert list(states.path("job").iterdir()) == []


def test_a_directory_with_anything_else_in_it_goes(tmp_path: Path) -> None:
    states = StateDirectories(tmp_path)
    os.close(states.make("first"))
    (states.path("first") / "what is this").touch()
    states.init_left("first")
    states.remove("first")
    assert list((tmp_path / "spare").iterdir()) == []


def test_spare_ones_are_found_again_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statedirs, "MOST_SPARE", 2)
    states = StateDirectories(tmp_path)
    for job_id in ("a", "b", "c"):
        os.close(states.make(job_id))
    for job_id in ("a", "b", "c"):
        states.init_left(job_id)
        states.remove(job_id)
    kept = sorted((tmp_path / "spare").iterdir())
    assert len(kept) == 2
    assert not {"a", "b", "c"} & {entry.name for entry in kept}
    inode = kept[0].stat().st_ino
    again = StateDirectories(tmp_path)
    os.close(again.make("d"))
    assert again.path("d").stat().st_ino == inode
