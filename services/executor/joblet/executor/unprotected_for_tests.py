"""Runs programs as jobs without some of what protects the machine from jobs, to show what each protection stops.

A program for tests, since the namespaces it makes need a process with a single thread:

    python -m joblet.executor.unprotected_for_tests PROGRAMS WORKSHOP < requests > answers

PROGRAMS is the directory that jobs see as /opt/escape, WORKSHOP one for compiled jobinits. A request is a line of JSON:
{"argv": [...], "without": [names of PROTECTIONS], "network": "none" or "host", "work_dir": path, "outputs": [globs]}.
Its answer is a line of JSON: the job's output, what ended it, the contents of what was kept of its /work and whether
collecting that was cut off. There is no attestation here. The process is a careless executor, see
`careless_for_tests`.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from joblet.executor import rootplan, syscalls
from joblet.executor.careless_for_tests import allow_nested, careless
from joblet.executor.collecting_for_tests import collected
from joblet.executor.hardening_for_tests import Edit, Mutation, Workshop, named
from joblet.executor.jobinit_for_tests import MIB, Failed, Job, Node, errno_of, node, unlimited
from joblet.executor.jobspec import LaunchFlag, LaunchSpec, Stage
from joblet.executor.outputs import PARTIAL
from joblet.executor.rootplan import Device, Directory, Operation, ReadOnlyBind
from joblet.executor.template import build_template


@dataclass(frozen=True, slots=True)
class Protection:
    """How one is taken away: edits of jobinit's sources (names of HARDENING), else by the ground the job stands on.

    With `root` the command is uid 0 of its user namespace, or of the machine if it has none."""

    lines: tuple[str, ...] = ()
    root: bool = False


PROTECTIONS: Final = {
    "seccomp": Protection(("no seccomp",)),
    "no capabilities": Protection(("all capabilities of the user namespace", "bounding set"), root=True),
    "user namespace": Protection(("no user namespace",)),
    "no nested user namespaces": Protection(("nested user namespaces",)),
    "pid namespace": Protection(("clone without CLONE_NEWPID",)),
    "ipc namespace": Protection(("clone without CLONE_NEWIPC",)),
    "uts namespace": Protection(("clone without CLONE_NEWUTS",)),
    "cgroup namespace": Protection(("clone without CLONE_NEWCGROUP",)),
    "nodev": Protection(("tmpfs with devices",)),
    "no_new_privs": Protection(("privileges to be gained",)),
    "masks in /proc": Protection(("masks of files not made",)),
    "read-only /proc/sys": Protection(("/proc/sys can be written",)),
    "no links followed to outputs": Protection(("outputs by what links lead to", "outputs through links")),
    "descriptors closed before collecting": Protection(("outputs with init's descriptors",)),
    "collecting as the job's user": Protection(
        (
            "outputs in init's user namespace",
            "outputs with the groups of init",
            "outputs as init's gid",
            "outputs as init's uid",
            "outputs with every capability",
        )
    ),  # fmt: skip
    "only files as outputs": Protection(("outputs of any kind",)),
    "no waiting for outputs": Protection(("outputs waited for",)),
    "descriptors closed in time": Protection(("descriptors open while paths are followed",)),
    "no magic links": Protection(("links of /proc to a working directory",)),
    "closed descriptors": Protection(("descriptors of the launch", "descriptors nobody told of", "the spec")),
    "dropped groups": Protection(("groups of init", "groups of the command")),
    "write-only output": Protection(("output pipe can be read back",)),
    "keyring of its own": Protection(("keyring of the executor",)),
    "network namespace": Protection(),
    "Landlock": Protection(),
    "root of its own": Protection(),
    "read-only system": Protection(),
    "nosuid": Protection(),
    "devices of its own": Protection(),
}
_AS_ROOT: Final = Mutation(
    "root",
    (
        Edit("command.c", "SYS_setresgid, header->gid, header->gid, header->gid", "SYS_setresgid, 0, 0, 0"),
        Edit("command.c", "SYS_setresuid, header->uid, header->uid, header->uid", "SYS_setresuid, 0, 0, 0"),
    ),
)
_OF_THE_ROOT: Final = frozenset({"root of its own", "read-only system", "nosuid", "devices of its own"})
_COLLECTING_MS: Final = 2000
_PROGRAMS_IN_JOB: Final = "opt/escape"


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory of the host with what is below it, with as few restrictions as asked for."""

    source: str
    path: str
    attributes: int

    def apply(self, root: Path) -> None:
        syscalls.bind_tree(self.source, str(root / self.path), self.attributes)


@dataclass(frozen=True, slots=True)
class Request:
    argv: tuple[str, ...]
    without: frozenset[str]
    network: str
    work_dir: str
    outputs: tuple[str, ...]


class Bench:
    """Templates and jobinits by what they lack; made when first needed."""

    def __init__(self, plain: Node, programs: Path, workshop: Workshop, directory: Path, stack: ExitStack) -> None:
        self._plain = plain
        self._programs = programs
        self._workshop = workshop
        self._directory = directory
        self._stack = stack
        self._templates: dict[frozenset[str], int] = {}
        self._number = 0

    def run(self, request: Request) -> dict[str, Any]:
        self._number += 1
        if "no nested user namespaces" in request.without:
            allow_nested(self._plain.user)
        ground = replace(
            self._plain,
            template=self._template(request.without & _OF_THE_ROOT),
            jobinit=self._workshop.build(_mutations(request.without)),
        )
        with self._job(ground) as job:
            try:
                ended = job.run(_spec(job, request))
            except Failed as failed:
                told = str(failed)
                if failed.told.stage is Stage.WORKDIR:
                    told = f"stopped {errno_of(failed)} {request.work_dir}"
                return {"output": told, "end": "not started", "kept": "", "cut_off": False}
            kept = b"".join(content for _, content in collected(job).values())
            return {
                "output": ended.output.decode(errors="replace"), "end": ended.record.reason.name.lower(),
                "kept": kept.decode(errors="replace"), "cut_off": (job.directory / PARTIAL).exists(),
            }  # fmt: skip

    def _job(self, ground: Node) -> Job:
        """Its state directory and cgroups are as open as an ordinary umask leaves them."""
        before = os.umask(0o022)
        try:
            return Job(ground, self._directory / f"jbtest-{self._number}", unlimited())
        finally:
            os.umask(before)

    def _template(self, without: frozenset[str]) -> int:
        if without not in self._templates:
            mountpoint = self._directory / "root"
            mountpoint.mkdir(exist_ok=True)
            operations = weakened(rootplan.plan(rootplan.inspect_host()), without, self._programs)
            self._templates[without] = build_template(operations, mountpoint)
            self._stack.callback(os.close, self._templates[without])
        return self._templates[without]


def weakened(plan: Sequence[Operation], without: frozenset[str], programs: Path) -> list[Operation]:
    """The plan of a job's root with the programs in it and without these protections."""
    attributes = 0
    if "read-only system" not in without:
        attributes |= syscalls.MOUNT_ATTR_RDONLY
    if "nosuid" not in without:
        attributes |= syscalls.MOUNT_ATTR_NOSUID
    changed: list[Operation] = []
    for operation in plan:
        if operation == Directory("dev"):
            changed += [Directory(_PROGRAMS_IN_JOB), ReadOnlyBind(str(programs), _PROGRAMS_IN_JOB)]
            if "root of its own" in without:
                changed.append(Bind("/", "mnt", 0))
        if isinstance(operation, ReadOnlyBind):
            changed.append(Bind(operation.source, operation.path, attributes | syscalls.MOUNT_ATTR_NODEV))
        else:
            changed.append(operation)
        if operation == Directory("dev/shm", 0o1777) and "devices of its own" in without:
            changed += [Device("dev/mem", 1, 1), Device("dev/kmsg", 1, 11)]
    return changed


def _mutations(without: frozenset[str]) -> list[Mutation]:
    taken = [PROTECTIONS[name] for name in sorted(without)]
    lines = [named(line) for protection in taken for line in protection.lines]
    return [*lines, _AS_ROOT] if any(protection.root for protection in taken) else lines


def _spec(job: Job, request: Request) -> LaunchSpec:
    return job.spec(
        *request.argv, workdir=request.work_dir, flags=_flags(job, request), outputs=request.outputs,
        output_bytes=MIB, output_files=1000, output_ms=_COLLECTING_MS,
    )  # fmt: skip


def _flags(job: Job, request: Request) -> LaunchFlag:
    flags = LaunchFlag.NONE if job.cgroup.oom_event_fd is None else LaunchFlag.OOM_EVENT
    if request.network == "none" and "network namespace" not in request.without:
        return flags | LaunchFlag.NEW_NETWORK
    if request.network == "host" and "Landlock" not in request.without:
        return flags | LaunchFlag.LANDLOCK
    return flags


@contextmanager
def bench(programs: Path, workshop: Path) -> Iterator[Bench]:
    with careless(), ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jbtest")))
        yield Bench(stack.enter_context(node()), programs, Workshop(workshop), directory, stack)


def main(programs: str, workshop: str) -> None:
    with bench(Path(programs), Path(workshop)) as made:
        for line in sys.stdin:
            asked = json.loads(line)
            request = Request(
                tuple(asked["argv"]),
                frozenset(asked["without"]),
                asked["network"],
                asked["work_dir"],
                tuple(asked["outputs"]),
            )
            print(json.dumps(made.run(request)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
