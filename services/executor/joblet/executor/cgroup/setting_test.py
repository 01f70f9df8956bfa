from pathlib import Path

import pytest

from joblet.executor.cgroup import setting
from joblet.executor.cgroup.driver import LimitNotApplied


def test_what_the_kernel_takes(tmp_path: Path) -> None:
    path = tmp_path / "pids.max"
    path.touch()
    setting.apply_number("max_processes", str(path), 64)


def test_another_value_is_an_error_that_tells_both(tmp_path: Path) -> None:
    path = tmp_path / "pids.max"
    path.write_text("1234")
    with pytest.raises(LimitNotApplied) as caught:
        setting.apply_number("max_processes", str(path), 64)
    assert caught.value.field == "max_processes"
    assert str(caught.value) == (f"limit maxProcesses cannot be applied: {path} holds '6434' after '64' was written")


def test_memory_is_rounded_down_to_pages(tmp_path: Path) -> None:
    path = tmp_path / "memory.max"
    path.touch()
    asked = 10 * setting.PAGE_BYTES + 1
    setting.apply("memory_bytes", str(path), str(10 * setting.PAGE_BYTES), lambda answer: True)
    with pytest.raises(LimitNotApplied):
        setting.apply_bytes("memory_bytes", str(path), asked)  # an ordinary file rounds nothing


def test_a_missing_file_and_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(LimitNotApplied, match=r"limit maxCPU cannot be applied: this node has no cpu\.max"):
        setting.apply_number("cpu_percent", str(tmp_path / "cpu.max"), 1)
    with pytest.raises(LimitNotApplied, match="/dev/full refuses '1': no space left on device"):
        setting.apply_number("cpu_percent", "/dev/full", 1)


def test_io_without_a_disk() -> None:
    with pytest.raises(LimitNotApplied, match="limit maxIOBPS cannot be applied: no disk is known"):
        setting.require_devices(())
