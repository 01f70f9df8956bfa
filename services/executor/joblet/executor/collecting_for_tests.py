"""Jobs that leave something to be kept, and what must hold of how it is collected (`jobinit/collect.c`).

`CHECKS` are the tests of single lines: each takes a job that has not been started and tells whether the line, named as
in `hardening_for_tests`, has done its work. A collector is held up by a result that is a pipe nobody reads.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from joblet.common import tree
from joblet.common.errors import InvalidArgument
from joblet.common.tree import Entry, Kind
from joblet.executor.jobinit_for_tests import MIB, UID_BASE, Job, readable, until
from joblet.executor.jobspec import LaunchSpec
from joblet.executor.procfs import parse_status, read_status

Kept = Mapping[bytes, tuple[Entry, bytes]]

MOST_REPORT_BYTES: Final = 4096  # REPORT_BYTES of collect.c
MOST_DEPTH: Final = 128
_CAP_DAC_READ_SEARCH: Final = 2
_RESULT: Final = "outputs.tmp"
_PIPE_BYTES: Final = 4096
_SHORT_MS: Final = 4000  # what is collected in a moment must not take longer on a busy machine
_PATIENCE_SECONDS: Final = 20.0


def wanted(job: Job, text: str, **changes: object) -> LaunchSpec:
    """A job that keeps all of /work."""
    limits = {"outputs": ("**",), "output_bytes": 64 * MIB, "output_ms": 20_000, "output_files": 10_000}
    return job.spec("sh", "-c", text, **(limits | changes))


def script(job: Job, text: str, log: Path | None = None, **changes: object) -> None:
    """Runs it to init's end."""
    job.start(wanted(job, text, **changes), log=log)
    job.wait_end()


def collected(job: Job) -> Kept:
    """What was kept, by path; nothing when collecting was not completed."""
    return {
        entry.path: (entry, content) for entry, content in _entries(job) if entry.kind not in (Kind.LEAVE, Kind.END)
    }


def left_out(job: Job) -> list[tuple[str, bytes]]:
    """Why and what, as far as the result names it."""
    (report,) = (content for entry, content in _entries(job) if entry.kind is Kind.END)
    parts = report.split(b"\0")[:-1]
    return [(why.decode(), path) for why, path in zip(parts[::2], parts[1::2], strict=True)]


def _entries(job: Job) -> Iterator[tuple[Entry, bytes]]:
    path = job.directory / "outputs"
    if not path.exists():
        return
    with path.open("rb") as archive:
        end = path.stat().st_size - 8
        for entry in tree.entries(archive):
            yield entry, os.pread(archive.fileno(), entry.size, entry.content)
            if entry.end >= end:
                return


@contextmanager
def held_up(job: Job, **changes: object) -> Iterator[int | None]:
    """The pid of a collector that waits in the middle of its work; None when there never is one."""
    path = job.directory / _RESULT
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        job.start(wanted(job, "for n in $(seq 200); do : > file$n; done", **changes))
        init = int(parse_status(Path(f"/proc/self/fdinfo/{job.pidfd}").read_text())["Pid"])
        until(lambda: _is_full(pipe) or readable(job.pidfd, 0), "the collector neither waits nor has ended")
        children = [] if readable(job.pidfd, 0) else _children(init)
        yield children[0] if children else None
    finally:
        os.close(pipe)


def _is_full(pipe: int) -> bool:
    return int.from_bytes(fcntl.ioctl(pipe, 0x541B, bytes(4)), "little") > _PIPE_BYTES - 64  # FIONREAD


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _status(name: str, value: Callable[[], str]) -> Callable[[Job], bool]:
    def holds(job: Job) -> bool:
        with held_up(job) as collector:
            return collector is not None and " ".join(read_status(collector)[name].split()) == value()

    return holds


def _in_namespace(job: Job) -> bool:
    with held_up(job) as collector:
        return collector is not None and Path(f"/proc/{collector}/ns/user").stat().st_ino == job.node.user.inode


def _two_descriptors(job: Job) -> bool:
    with held_up(job) as collector:
        if collector is None:
            return False
        links = {int(entry.name): entry.readlink() for entry in Path(f"/proc/{collector}/fd").iterdir()}
    # Each directory it is in is open as well.
    beyond = {path for number, path in links.items() if number > 4}
    return all(path.is_relative_to("/work") for path in beyond) and links[4] == Path("/work")


def _ends_in_time(job: Job) -> bool:
    with held_up(job, output_ms=300):
        return readable(job.pidfd, _PATIENCE_SECONDS)


def _links_are_kept_as_links(job: Job) -> bool:
    script(job, "ln -s /etc/passwd file; ln -s / directory")
    return {entry.kind for entry, _ in collected(job).values()} == {Kind.LINK}


def _links_are_not_opened(job: Job) -> bool:
    script(job, "echo outside > /tmp/outside; ln -s /tmp/outside file; ln -s /tmp directory")
    return b"outside\n" not in {content for _, content in collected(job).values()}


def _only_files_are_files(job: Job) -> bool:
    script(job, "mkfifo pipe; echo > file", output_ms=_SHORT_MS)
    return set(collected(job)) == {b"file"}


def _nothing_waits(job: Job) -> bool:
    """Should something else than a file be opened: it does not hold up what else there is."""
    script(job, "mkfifo pipe; echo > file", output_ms=_SHORT_MS)
    return b"file" in collected(job)


def _permissions_only(job: Job) -> bool:
    script(job, "echo > file; chmod 6755 file")
    return [entry.mode for entry, _ in collected(job).values()] == [0o755]


def _at_most(**limit: int) -> Callable[[Job], bool]:
    def holds(job: Job) -> bool:
        script(job, "for n in $(seq 50); do head -c 1000 /dev/zero > $n; done", None, **limit)
        return 0 < len(collected(job)) <= 20

    return holds


def _not_too_deep(job: Job) -> bool:
    deep = "d/" * (MOST_DEPTH + 20)
    script(job, f"mkdir -p {deep}")
    return max(path.count(b"/") for path in collected(job)) == MOST_DEPTH - 1


def _paths_fit(job: Job) -> bool:
    level = "n" * 250
    script(job, f"for n in $(seq 20); do mkdir {level}; cd -P {level}; echo > file; done")
    try:
        return max(len(path) for path in collected(job)) < 4096
    except (InvalidArgument, ValueError):
        return False


def _reports_fit(job: Job) -> bool:
    script(job, "for n in $(seq 400); do mkfifo a-pipe-with-quite-a-long-name-$n; done")
    try:
        sizes = [entry.size for entry, _ in _entries(job) if entry.kind is Kind.END]
    except (InvalidArgument, ValueError):
        return False
    return len(sizes) == 1 and sizes[0] <= MOST_REPORT_BYTES


def _for_root_only(job: Job) -> bool:
    before = os.umask(0)
    try:
        script(job, "echo > file")
    finally:
        os.umask(before)
    return (job.directory / "outputs").stat().st_mode & 0o777 == 0o600


CHECKS: Final[Mapping[str, Callable[[Job], bool]]] = {
    "outputs in init's user namespace": _in_namespace,
    "outputs with the groups of init": _status("Groups", lambda: ""),
    "outputs as init's gid": _status("Gid", lambda: " ".join([str(UID_BASE + 1000)] * 4)),
    "outputs as init's uid": _status("Uid", lambda: " ".join([str(UID_BASE + 1000)] * 4)),
    "outputs with every capability": _status("CapEff", lambda: f"{1 << _CAP_DAC_READ_SEARCH:016x}"),
    "outputs with init's descriptors": _two_descriptors,
    "outputs without seccomp": _status(
        "Seccomp_filters", lambda: str(int(read_status(os.getpid())["Seccomp_filters"]) + 1)
    ),
    "outputs for ever": _ends_in_time,
    "outputs by what links lead to": _links_are_kept_as_links,
    "outputs through links": _links_are_not_opened,
    "outputs of any kind": _only_files_are_files,
    "outputs waited for": _nothing_waits,
    "outputs with set-uid bits": _permissions_only,
    "any number of outputs": _at_most(output_files=20),
    "outputs of any size": _at_most(output_bytes=20_000),
    "outputs at any depth": _not_too_deep,
    "outputs with any path": _paths_fit,
    "any number of outputs left out": _reports_fit,
    "outputs that others may read": _for_root_only,
}
