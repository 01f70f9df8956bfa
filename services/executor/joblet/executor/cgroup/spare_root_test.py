"""Cgroups that are made ahead of their jobs, on the real kernel. v2 makes none, and nothing else is different there."""

import os
import select
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from joblet.executor.cgroup import files
from joblet.executor.cgroup.detect import detect
from joblet.executor.cgroup.devices import block_devices_of
from joblet.executor.cgroup.driver import CgroupDriver, CgroupError, Device, JobCgroup, LimitNotApplied
from joblet.executor.cgroup.driver_for_tests import DEADLINE_SECONDS, PYTHON, directories_named, output, start
from joblet.executor.cgroup.hierarchies import membership
from joblet.executor.cgroup.limits import Limits
from joblet.executor.cgroup.spare import PREFIX, STOCK

pytestmark = pytest.mark.root

MIB = 1 << 20
LIMITS = Limits(cpu_percent=100, memory_bytes=64 * MIB, max_processes=20)


def spares(parent: str) -> list[str]:
    """The directories of spares, in all hierarchies."""
    return [
        f"{directory}/{name}"
        for directory in directories_named(parent)
        for name in os.listdir(directory)
        if name.startswith(PREFIX)
    ]


def stock(driver: CgroupDriver, limits: Limits = LIMITS, devices: tuple[Device, ...] = ()) -> int:
    """Makes spares as they are for jobs with these limits; how many."""
    driver.create("first", limits, devices).remove()
    return sum(1 for _ in iter(driver.make_spare, False))


def inodes(job_id: str) -> set[int]:
    return {Path(directory).stat().st_ino for directory in directories_named(job_id)}


def test_no_spare_is_made_before_a_job_was(driver: CgroupDriver, parent: str) -> None:
    assert not driver.make_spare()
    assert spares(parent) == []


def test_spares_are_no_jobs_and_go_at_the_end(driver: CgroupDriver, parent: str) -> None:
    before = set(os.listdir("/proc/self/fd"))
    assert stock(driver) == (STOCK if driver.version == 1 else 0)
    assert bool(spares(parent)) == (driver.version == 1)
    assert driver.existing() == []
    driver.close()
    assert directories_named(parent) == []
    assert set(os.listdir("/proc/self/fd")) <= before
    driver.prepare()


def test_a_job_gets_the_directories_of_a_spare(driver: CgroupDriver, parent: str, processes: ExitStack) -> None:
    stock(driver)
    ahead = {Path(directory).stat().st_ino for directory in spares(parent)}
    job = driver.create("renamed", LIMITS, ())
    assert inodes("renamed") <= ahead or driver.version == 2
    assert (driver.existing(), job.read_back()) == (["renamed"], LIMITS)
    found = membership(output(job, processes, "cat", "/proc/self/cgroup"))
    assert {name: found[name] for name in job.expected_paths} == job.expected_paths
    job.remove()
    assert directories_named("renamed") == []


def test_counters_begin_at_zero(driver: CgroupDriver, processes: ExitStack) -> None:
    """Also after spares have lain beside jobs that used much."""
    stock(driver)
    busy = driver.create("busy", LIMITS, ())
    output(busy, processes, *PYTHON, "sum(bytearray(8 << 20))")
    busy.remove()
    job = driver.create("fresh", LIMITS, ())
    usage = job.usage()
    assert (usage.cpu_user_seconds, usage.cpu_system_seconds, usage.oom_kills) == (0, 0, 0)
    assert (usage.peak_memory_bytes or 0, usage.io_read_bytes, usage.io_write_bytes) == (0, 0, 0)
    job.remove()


def test_what_was_opened_before_the_renaming_holds_after(driver: CgroupDriver, processes: ExitStack) -> None:
    """The tasks files, the counter of OOM kills and the event about them."""
    stock(driver)
    job = driver.create("opened", LIMITS, ())
    hog = start(job, processes, *PYTHON, f"bytearray({4 * LIMITS.memory_bytes})[::4096]")
    assert hog.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL
    kills = job.usage().oom_kills
    assert kills >= 1
    assert b"oom_kill %d\n" % kills in os.pread(job.oom_counter_fd, 4096, 0)
    if job.oom_event_fd is not None:
        assert select.select([job.oom_event_fd], [], [], 0)[0]
    job.remove()


@pytest.mark.parametrize(
    "limits",
    [
        replace(LIMITS, memory_bytes=32 * MIB),
        replace(LIMITS, memory_bytes=256 * MIB),
        Limits(50, None, 128 * MIB, MIB, 10),
        Limits(200, None, 16 * MIB, 3 * MIB, 40),
        replace(LIMITS, cpu_percent=0),
        Limits(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("made_with", [LIMITS, Limits(100, None, 64 * MIB, 2 * MIB, 20), Limits()], ids=repr)
def test_a_job_with_other_limits_has_its_own(
    driver: CgroupDriver, tmp_path: Path, processes: ExitStack, made_with: Limits, limits: Limits
) -> None:
    devices = block_devices_of([tmp_path])
    stock(driver, made_with, devices)
    job = driver.create("other", limits, devices)
    assert job.read_back() == limits
    if limits.memory_bytes:
        hog = start(job, processes, *PYTHON, f"bytearray({limits.memory_bytes + MIB})[::4096]")
        assert hog.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL
    job.remove()


def test_the_spare_that_has_the_limits_already_comes_first(driver: CgroupDriver, parent: str) -> None:
    assert driver.make_spare() is False
    for number, memory_bytes in enumerate((32 * MIB, 48 * MIB)):
        driver.create(f"job-{number}", replace(LIMITS, memory_bytes=memory_bytes), ()).remove()
        driver.make_spare()
    wanted = {
        Path(directory).stat().st_ino
        for directory in spares(parent)
        if Path(directory, "memory.limit_in_bytes").exists()
        and files.read(f"{directory}/memory.limit_in_bytes") == f"{48 * MIB}\n"
    }
    job = driver.create("wanted", replace(LIMITS, memory_bytes=48 * MIB), ())
    assert wanted <= inodes("wanted")
    job.remove()


def test_an_io_limit_of_other_disks_is_not_inherited(driver: CgroupDriver, tmp_path: Path) -> None:
    limits = replace(LIMITS, io_bytes_per_second=MIB)
    stock(driver, limits, block_devices_of([tmp_path]))
    with pytest.raises(LimitNotApplied, match="no disk is known"):
        driver.create("diskless", limits, ())
    assert directories_named("diskless") == []


def test_a_refused_limit_costs_a_spare_and_leaves_nothing(driver: CgroupDriver, parent: str) -> None:
    made = stock(driver)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LimitNotApplied):
        driver.create("refused", replace(LIMITS, max_processes=1 << 40), ())
    assert directories_named("refused") == []
    assert driver.make_spare() == bool(made)
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert not driver.make_spare()


def test_a_second_cgroup_of_the_same_job_is_refused(driver: CgroupDriver) -> None:
    stock(driver)
    first = driver.create("twice", LIMITS, ())
    with pytest.raises(CgroupError, match="job twice has a cgroup already"):
        driver.create("twice", replace(LIMITS, memory_bytes=32 * MIB), ())
    assert first.read_back() == LIMITS
    first.remove()


def test_cores_need_no_spare_and_take_none(driver: CgroupDriver, parent: str) -> None:
    if "cpuset" not in files.read("/proc/cgroups"):
        return
    stock(driver)
    before = spares(parent)
    job = driver.create("cores", replace(LIMITS, cpu_cores=(max(os.sched_getaffinity(0)),)), ())
    assert spares(parent) == before
    job.remove()


def test_another_executor_with_the_same_parent_takes_spares_away(driver: CgroupDriver, parent: str) -> None:
    made = stock(driver)
    other = detect(parent)
    other.prepare()
    assert spares(parent) == []
    job = driver.create("still", LIMITS, ())
    assert job.read_back() == LIMITS
    assert sum(1 for _ in iter(driver.make_spare, False)) == made
    job.remove()
    other.close()


CRASH = """if True:
    import os, signal, sys
    from joblet.executor.cgroup.detect import detect
    from joblet.executor.cgroup.limits import Limits

    step, parent, steps_left = sys.argv[1], sys.argv[2], [int(sys.argv[3])]
    real = getattr(os, step)

    def dying(*arguments, **keywords):
        if steps_left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps_left[0] -= 1
        real(*arguments, **keywords)

    driver = detect(parent)
    driver.prepare()
    limits = Limits(cpu_percent=100, memory_bytes=64 << 20, max_processes=20)
    driver.create("first", limits, ()).remove()
    if step == "rename":
        driver.make_spare()
        driver.make_spare()
    setattr(os, step, dying)
    if step == "rename":
        driver.create("crashed", limits, ())
    else:
        driver.make_spare()
"""


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("step", ["mkdir", "rename"])
def test_a_killed_executor_leaves_nothing_that_the_next_does_not_find(
    driver: CgroupDriver, parent: str, step: str, steps: int
) -> None:
    """Between any two of the directories that a spare is made of or that are renamed."""
    if driver.version == 2:
        return
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    crash = [sys.executable, "-c", CRASH, step, parent, str(steps)]
    process = subprocess.run(crash, env=environment, timeout=DEADLINE_SECONDS, check=False)
    assert process.returncode == -signal.SIGKILL
    renamed = directories_named("crashed")
    assert len(renamed) == (steps if step == "rename" else 0)
    left = len(spares(parent))
    assert left == (steps if step == "mkdir" else 10 - steps)

    following = detect(parent)
    following.prepare()
    assert spares(parent) == []
    assert following.existing() == (["crashed"] if renamed else [])
    following.discard("crashed")
    again: JobCgroup = following.create("crashed", LIMITS, ())
    assert again.read_back() == LIMITS
    again.remove()
    following.close()
