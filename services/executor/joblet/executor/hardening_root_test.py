"""Each line of jobinit's hardening is taken away in turn: attestation refuses the job, or the line's own test fails.

`SEEN` are refused. What cannot be seen from outside while the command waits is in `UNSEEN`, with the reason and a check
that holds with the line and fails without it; what is done twice is in `TWICE`, with the line that does it, too; what
the kernel does anyway is in `IMPLIED`. The executor of these tests is a careless one: it has extra groups, an ignored
signal, an own personality and so on, for jobinit to put right.
"""

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from joblet.executor import launch, procmasks, syscalls
from joblet.executor.attest import AttestationFailed
from joblet.executor.careless_for_tests import EXTRA_GROUP, INHERITABLE, allow_nested, careless
from joblet.executor.collecting_for_tests import CHECKS
from joblet.executor.hardening_for_tests import HARDENING, Mutation, Workshop, mutated, named
from joblet.executor.job import Network
from joblet.executor.jobinit_for_tests import Failed, Job, errno_of, unlimited
from joblet.executor.jobinit_for_tests import Node as BareNode
from joblet.executor.jobspec import LaunchFlag, Profile, Stage, Upload, UploadKind
from joblet.executor.launch import LaunchError
from joblet.executor.launch_for_tests import Ground, other_ground, prepared_ground
from joblet.executor.procfs import parse_status
from joblet.executor.rootplan import inspect_host, plan
from joblet.executor.seccomp_for_tests import mutations as rules
from joblet.executor.template import build_template
from joblet.executor.testing import order

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]

PAGE = Path(__file__).resolve().parents[4] / "docs/security.md"
NO_SECCOMP = named("no seccomp")
OPEN_TOO_LONG = named("descriptors open while paths are followed")
MAGIC_LINKS = named("links of /proc to a working directory")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("jbtest-jobinit"))


@pytest.fixture(scope="module", autouse=True)
def _careless() -> Iterator[None]:
    with careless():
        yield


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, _careless: None) -> Iterator[Ground]:
    with pytest.MonkeyPatch.context() as patch, prepared_ground(tmp_path_factory.mktemp("jbtest-hardening")) as made:
        patch.setattr(launch, "_MOST_FILES", 1000)  # below this process's own limit, so that jobinit has to set it
        yield made


def launched(ground: Ground, mutations: Iterable[Mutation], workshop: Workshop, template: int | None = None) -> str:
    """Why the job was refused, empty when it ran."""
    chosen = tuple(mutations)
    job = order(
        command="sh", args=("-c", "echo ran"), work_dir="/", profile=chosen[0].profile if chosen else Profile.DEFAULT
    )
    if any(mutation.host_network for mutation in chosen):
        job = replace(job, network=Network.HOST)
    try:
        with other_ground(ground, workshop.build(chosen), template) as other:
            asyncio.run(other.run(job))
    except (AttestationFailed, LaunchError) as error:
        assert ground.output() == ""
        return error.message
    assert ground.output() == "ran\n"
    return ""


# ---- What cannot be seen from outside ----


@dataclass(frozen=True, slots=True)
class Unseen:
    """`holds` looks at a job of the jobinit in the node and tells whether the line has done its work."""

    reason: str
    holds: Callable[[Job], bool]
    besides: tuple[Mutation, ...] = ()  # taken away in both runs, because it hides the effect


AFTER_GO = "init gives it up beside the waiting command, and nobody waits for that; nothing of the job runs before"
BY_A_TRICK = "makes a difference only for a job whose working directory is a trick"
AT_THE_END = "is about what is done when the job has ended"
INSIDE = "only a process in the namespace can ask for it"


def says(*script: str, **changes: Any) -> Callable[[Job], str]:
    def ask(job: Job) -> str:
        return job.run(job.spec("sh", "-c", *script, **changes)).output.decode().strip()

    return ask


def init_of(job: Job) -> Path:
    """/proc/PID of the init of a job that has been started."""
    job.start(job.spec("sleep", "1000"))
    return Path(f"/proc/{parse_status(Path(f'/proc/self/fdinfo/{job.pidfd}').read_text())['Pid']}")


def descriptors_of_init(unwanted: Iterable[int]) -> Callable[[Job], bool]:
    def holds(job: Job) -> bool:
        return not set(unwanted) & {int(entry.name) for entry in (init_of(job) / "fd").iterdir()}

    return holds


def status_of_init(name: str, value: str) -> Callable[[Job], bool]:
    return lambda job: parse_status((init_of(job) / "status").read_text())[name] == value


def unreadable_for_root_without_capabilities(job: Job) -> bool:
    """Root that has no capability init lacks, such as another service's: refused by non-dumpability alone."""
    environ = init_of(job) / "environ"
    read = subprocess.run(
        ["setpriv", "--bounding-set=-all,+kill", "--inh-caps=-all,+kill", "cat", environ],
        capture_output=True,
        check=False,
    )
    return read.returncode != 0


def no_key_of_the_executor(job: Job) -> bool:
    """careless() has put a key into the session keyring; KEYCTL_SEARCH in KEY_SPEC_SESSION_KEYRING, keyctl(2)."""
    code = "import ctypes; l = ctypes.CDLL(None); print(l.syscall(250, 10, -3, b'user', b'jbtest', 0) > 0)"
    return job.run(job.spec("python3", "-ISc", code)).output == b"False\n"


def uploads_stay_in_work(job: Job) -> bool:
    """A link that leads out of /work is uploaded, and then a file by way of it."""
    uploads = [Upload("l", 0o777, 4, UploadKind.LINK), Upload("l/x", 0o644)]
    try:
        job.start(job.spec("true", uploads=uploads), b"/tmp")
    except Failed as failed:  # without the line /tmp/x is made, and only the mode of /tmp cannot be set
        return errno_of(failed) == "ELOOP"
    return False


def no_descriptor_as_working_directory(job: Job) -> bool:
    """/proc/sys as it is below the read-only one: init keeps it open for the command, until that has used it."""
    try:
        job.start(job.spec("true", workdir="/proc/self/fd/54"))
    except Failed as failed:
        return failed.told.stage is Stage.WORKDIR
    return False


def nested_namespaces_forbidden(job: Job) -> bool:
    allow_nested(job.node.user)
    return says("cat /proc/sys/user/max_user_namespaces")(job) == "0"


def abstract_sockets_closed(job: Job) -> bool:
    assert syscalls.landlock_abi() >= 6, "this test needs Linux 6.12"
    code = "import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + 'jbtest-hardening')"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0jbtest-hardening")
        server.listen()
        return job.run(job.spec("python3", "-ISc", code, flags=LaunchFlag.LANDLOCK)).record.exit_code != 0


# What hides the effect of a line of collect.c.
BESIDES = {
    "outputs with the groups of init": ("groups of init",),
    "outputs by what links lead to": ("outputs through links",),
    "outputs through links": ("outputs by what links lead to",),
    "outputs waited for": ("outputs of any kind",),
}
UNSEEN = {
    "host name": Unseen(INSIDE, lambda job: says("hostname")(job) == "jbtest"),
    "domain name": Unseen(INSIDE, lambda job: says("cat /proc/sys/kernel/domainname")(job) == "(none)"),
    "init dumpable": Unseen("owned by root either way, /proc looks the same", unreadable_for_root_without_capabilities),
    "init keeps the spec": Unseen(AFTER_GO, descriptors_of_init({3})),
    "init keeps the template and the user namespace": Unseen(AFTER_GO, descriptors_of_init({5, 6})),
    "init keeps the uploads": Unseen(AFTER_GO, descriptors_of_init({10})),
    "init keeps the cgroup": Unseen(AFTER_GO, descriptors_of_init(range(13, 48))),
    "init keeps /proc/sys": Unseen(AFTER_GO, descriptors_of_init({54})),
    "init may gain privileges": Unseen(AFTER_GO, status_of_init("NoNewPrivs", "1")),
    "init keeps its capabilities": Unseen(AFTER_GO, status_of_init("CapEff", f"{1 << 5:016x}")),
    "nested user namespaces": Unseen(
        "a setting of the namespace, which only its members can read; the pool has made it once, too",
        nested_namespaces_forbidden,
    ),
    "keyring of the executor": Unseen(
        "/proc tells nothing of another process's keyrings", no_key_of_the_executor, besides=(NO_SECCOMP,)
    ),
    "uploads anywhere": Unseen(
        "decides about one path of an upload at a time, and that is over when the command waits", uploads_stay_in_work
    ),
    "descriptors open while paths are followed": Unseen(
        BY_A_TRICK, no_descriptor_as_working_directory, besides=(MAGIC_LINKS,)
    ),
    "links of /proc to a working directory": Unseen(
        BY_A_TRICK, no_descriptor_as_working_directory, besides=(OPEN_TOO_LONG,)
    ),
    "no Landlock": Unseen("/proc tells nothing of Landlock domains", abstract_sockets_closed),
    **{name: Unseen(AT_THE_END, holds, tuple(map(named, BESIDES.get(name, ())))) for name, holds in CHECKS.items()},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Twice:
    """Two lines do it; without `other` alone attestation says nothing about `word`, without both it does."""

    other: str
    word: str


TWICE = {
    "descriptors beyond the protocol stay in outer": Twice("descriptors nobody told of", str(INHERITABLE)),
    "groups of the command": Twice("groups of init", f"Groups is 0 {EXTRA_GROUP}"),
}
IMPLIED = {
    "any number of names looked at": "a tmpfs has a quarter as many (nr_inodes, which counts every link)",
    "ambient set": "entering a user namespace clears it (kernel/user_namespace.c, set_cred_user_ns)",
}


def applies(mutation: Mutation) -> bool:
    """Whether this kernel has what the line is about."""
    name = mutation.name.partition(" as it is")[0]
    return not mutation.name.endswith(" as it is") or name in procmasks.present()


SEEN = [
    mutation.name for mutation in HARDENING if mutation.name not in {*UNSEEN, *TWICE, *IMPLIED} and applies(mutation)
]  # fmt: skip


def test_the_whole_jobinit_is_attested(ground: Ground, workshop: Workshop) -> None:
    assert launched(ground, (), workshop) == ""


def test_every_line_is_in_the_sources_and_in_one_list() -> None:
    for mutation in HARDENING:
        assert mutated([mutation])
    names = [mutation.name for mutation in HARDENING]
    assert len(set(names)) == len(names)
    assert {*UNSEEN, *TWICE, *IMPLIED} <= set(names)


def test_the_page_tells_what_cannot_be_seen() -> None:
    page = PAGE.read_text()
    for name, unseen in UNSEEN.items():
        assert f"| {name} | {unseen.reason} |" in page
    assert f"({len(HARDENING)} of them)" in page
    assert f"({len(list(rules()))})" in page


@pytest.mark.parametrize("name", SEEN)
def test_without_the_line_attestation_refuses(ground: Ground, workshop: Workshop, name: str) -> None:
    mutation = named(name)
    if mutation.version not in (0, ground.node.cgroup_version):
        return  # the other version's way of doing it
    with ExitStack() as stack:
        template = None
        if name == "clone without CLONE_NEWNS":  # its mounts stay in the namespace that all others start from
            template = build_template(plan(inspect_host()), ground.directory)
            stack.callback(os.close, template)
        assert launched(ground, [mutation], workshop, template) != ""


@pytest.fixture
def ordinary_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_working_directory_that_is_the_machines_is_refused(
    ground: Ground, workshop: Workshop, ordinary_umask: None
) -> None:
    """Descriptor 7 is the job's state directory; here it can be entered, in an executor's only by root."""
    built = workshop.build([OPEN_TOO_LONG, MAGIC_LINKS])
    message = "working directory is on no mount of the job"
    with other_ground(ground, built) as weak, pytest.raises(AttestationFailed, match=message):
        asyncio.run(weak.run(order(command="sh", args=("-c", "echo ran"), work_dir="/proc/self/fd/7")))
    assert ground.output() == ""


@pytest.mark.parametrize("name", TWICE)
def test_what_is_done_twice(ground: Ground, workshop: Workshop, name: str) -> None:
    twice = TWICE[name]
    assert twice.word not in launched(ground, [named(twice.other)], workshop)
    assert twice.word in launched(ground, [named(twice.other), named(name)], workshop)


@pytest.mark.parametrize("name", IMPLIED)
def test_what_the_kernel_does_anyway(ground: Ground, workshop: Workshop, name: str) -> None:
    assert launched(ground, [named(name)], workshop) == ""


@pytest.mark.parametrize("name", UNSEEN)
def test_what_cannot_be_seen_has_its_own_test(node: BareNode, tmp_path: Path, workshop: Workshop, name: str) -> None:
    unseen = UNSEEN[name]
    results = []
    for number, mutations in enumerate((unseen.besides, (*unseen.besides, named(name)))):
        built = replace(node, jobinit=workshop.build(mutations))
        with Job(built, tmp_path / f"jbtest-{number}", unlimited()) as job:
            results.append(unseen.holds(job))
    assert results == [True, False]
