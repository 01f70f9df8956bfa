from pathlib import Path

import pytest

from joblet.executor import statedirs
from joblet.executor.statedirs import StateDirectories


def write_record(states: StateDirectories, job_id: str) -> None:
    (states.path(job_id) / "exit").write_bytes(b"how it ended")


def test_the_directory_of_a_job_that_is_over_serves_the_next_one_without_its_record(tmp_path: Path) -> None:
    states = StateDirectories(tmp_path)
    states.make("first")
    inode = states.path("first").stat().st_ino
    write_record(states, "first")
    states.init_left("first")
    states.remove("first")
    assert states.job_ids() == []
    states.make("second")
    assert states.path("second").stat().st_ino == inode
    assert [entry.name for entry in states.path("second").iterdir()] == ["exit.tmp"]


def test_a_directory_whose_init_was_not_seen_to_end_is_not_used_again(tmp_path: Path) -> None:
    states = StateDirectories(tmp_path)
    states.make("first")
    write_record(states, "first")
    states.remove("first")
    states.make("second")
    assert list(states.path("second").iterdir()) == []


def test_what_an_earlier_attempt_left_does_not_stay(tmp_path: Path) -> None:
    states = StateDirectories(tmp_path)
    for job_id in ("first", "again"):
        states.make(job_id)
        write_record(states, job_id)
    states.init_left("first")
    states.remove("first")
    states.make("again")
    assert [entry.name for entry in states.path("again").iterdir()] == ["exit.tmp"]


def test_a_directory_with_anything_else_in_it_goes(tmp_path: Path) -> None:
    states = StateDirectories(tmp_path)
    states.make("first")
    (states.path("first") / "what is this").touch()
    states.init_left("first")
    states.remove("first")
    assert list((tmp_path / "spare").iterdir()) == []


def test_spare_ones_are_found_again_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statedirs, "MOST_SPARE", 2)
    states = StateDirectories(tmp_path)
    for job_id in ("a", "b", "c"):
        states.make(job_id)
    for job_id in ("a", "b", "c"):
        states.init_left(job_id)
        states.remove(job_id)
    kept = sorted((tmp_path / "spare").iterdir())
    assert len(kept) == 2
    assert not {"a", "b", "c"} & {entry.name for entry in kept}
    inode = kept[0].stat().st_ino
    again = StateDirectories(tmp_path)
    again.make("d")
    assert again.path("d").stat().st_ino == inode
