"""The cgroup v2 driver where the executor is not in the root: in a service's cgroup, a container, after a restart.

Only for the guest (tests/e2e/guest/run): it moves processes between cgroups at the top of the hierarchy.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

TOP = Path("/sys/fs/cgroup")
DEADLINE_SECONDS = 120.0

PRELUDE = """if True:
    import os, sys
    from pathlib import Path
    from joblet.executor.cgroup.detect import detect
    from joblet.executor.cgroup.driver import CgroupError
    from joblet.executor.cgroup.hierarchies import membership
    from joblet.executor.cgroup.limits import Limits

    def own():
        return membership(Path("/proc/self/cgroup").read_text())[""]

    def once(parent="joblet"):
        driver = detect(parent)
        assert driver.version == 2
        driver.prepare()
        job = driver.create("job", Limits(100, None, 64 << 20, 0, 8), ())
        pid = os.fork()
        if pid == 0:
            os.write(os.open("cgroup.procs", os.O_WRONLY, dir_fd=job.payload_fds[0]), b"0")
            found = membership(Path("/proc/self/cgroup").read_text())
            os._exit(0 if found == dict(job.expected_paths) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        print(own(), job.expected_paths[""])
        job.remove()
        return driver
"""


@pytest.fixture
def service() -> Iterator[Path]:
    """A cgroup such as an init system makes for the executor, with nothing delegated yet."""
    assert (TOP / "cgroup.controllers").exists(), "run this with tests/e2e/guest/run"
    slice_ = TOP / "jbtest.slice"
    directory = slice_ / "jbtest.service"
    directory.mkdir(parents=True)
    yield directory
    for path in sorted(slice_.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    slice_.rmdir()


def start_in(directory: Path, script: str, *prefix: str) -> subprocess.Popen[str]:
    """A Python process that is in the cgroup from the start."""

    def enter() -> None:
        (directory / "cgroup.procs").write_text("0")

    argv = [*prefix, sys.executable, "-c", PRELUDE + script]
    return subprocess.Popen(argv, preexec_fn=enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_in(directory: Path, script: str, *prefix: str) -> list[str]:
    process = start_in(directory, script, *prefix)
    text, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    return text.split()


def test_a_service_moves_itself_into_a_leaf(service: Path) -> None:
    base = "/jbtest.slice/jbtest.service"
    assert run_in(service, "    once().close()\n") == [f"{base}/joblet-executor", f"{base}/joblet/job"]
    assert {"cpu", "io", "memory", "pids"} <= set((service / "cgroup.subtree_control").read_text().split())
    assert not (service / "joblet").exists()


def test_a_restart_inside_the_leaf_finds_the_same_parent(service: Path) -> None:
    run_in(service, "    once()\n")
    leaf = service / "joblet-executor"
    base = "/jbtest.slice/jbtest.service"
    assert run_in(leaf, "    once().close()\n") == [f"{base}/joblet-executor", f"{base}/joblet/job"]


def test_others_in_the_cgroup_are_named_and_left_alone(service: Path) -> None:
    neighbour = start_in(service, "    print('here', flush=True); input()\n")
    try:
        assert neighbour.stdout is not None
        assert neighbour.stdout.readline() == "here\n"
        script = """
    try:
        once()
    except CgroupError as error:
        print(error)
        print(error.hint, file=sys.stderr)
        assert f"processes {sys.argv[1]} are in" in error.hint and '"/joblet"' in error.hint
"""
        process = start_in(service, script.replace("sys.argv[1]", str(neighbour.pid)))
        text, _ = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0
        assert text == "cgroup setup failed: device or resource busy\n"
        assert str(neighbour.pid) in (service / "cgroup.procs").read_text().split()
    finally:
        neighbour.communicate("\n", timeout=DEADLINE_SECONDS)


def test_a_parent_at_the_top_needs_no_move(service: Path) -> None:
    assert run_in(service, "    once('/jbtest-top').close()\n") == ["/jbtest.slice/jbtest.service", "/jbtest-top/job"]
    assert not (TOP / "jbtest-top").exists()


def in_container(service: Path, script: str = "    once().close()\n") -> list[str]:
    """What once() prints in a cgroup namespace whose root is the service; the shell plays the container's init."""
    mount = "umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && "
    prefix = ("unshare", "--cgroup", "--mount", "sh", "-c", mount + '"$@"; exit $?', "sh")
    return run_in(service, script, *prefix)


def test_in_a_container_everybody_moves(service: Path) -> None:
    for above in (TOP, service.parent):
        (above / "cgroup.subtree_control").write_text("+cpu +io +memory +pids")
    assert in_container(service) == ["/joblet-executor", "/joblet/job"]


def test_a_container_without_controllers_is_told_so(service: Path) -> None:
    script = """
    try:
        once()
    except CgroupError as error:
        print(error)
"""
    text = " ".join(in_container(service, script))
    assert text == "cgroup setup failed: /sys/fs/cgroup has no controllers cpu, io, memory, pids"


def test_a_parent_of_several_levels(service: Path) -> None:
    base = "/jbtest.slice/jbtest.service"
    assert run_in(service, "    once('node/a').close()\n") == [f"{base}/joblet-executor", f"{base}/node/a/job"]
    assert not (service / "node/a").exists()


def test_a_threaded_cgroup_is_refused(service: Path) -> None:
    """It cannot give the memory controller to its children."""
    (service / "cgroup.type").write_text("threaded")
    script = """
    try:
        once()
    except CgroupError as error:
        print(error)
"""
    text = " ".join(run_in(service, script))
    assert text.startswith("cgroup setup failed: ")
