"""Known ways out of a sandbox are tried from inside real jobs, and again with what stops them taken away.

docs/security.md has the table; it is written from a run: `.venv/bin/python tests/e2e/escape_test.py` (as root).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from escape_corpus import BUILD, Case, build, cases
from escape_world import MARK, world
from local_system import REPOSITORY, LocalSystem, local_system
from vitals import channel

from joblet.api import job_pb2_grpc
from joblet.api.job_pb2 import FileUpload, GetJobLogsReq, GetJobOutputReq, GetJobStatusReq, RunJobReq, WaitJobReq

pytestmark = pytest.mark.root

CASES = cases()
CALL_SECONDS = 120.0
AT_ONCE = 4
PAGE = REPOSITORY / "docs/security.md"
COLUMNS = 7
NOT_TRIED = "-"
CGROUP_2 = Path("/sys/fs/cgroup/cgroup.controllers")
CUT_OFF = "collecting was cut off"
SHARED_SOCKETS = "abstract unix sockets"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program said: `by` is "reached" or what stopped it."""

    by: str
    text: str


def said(output: str, end: str) -> Outcome:
    """Of the last line; a program that said nothing was ended by something, whose first word is the reason."""
    lines = [line.split() for line in output.splitlines() if line.startswith(("reached ", "stopped "))]
    if not lines:
        return Outcome(end.partition(" ")[0] or "nothing said", f"{end} {output}".strip())
    return Outcome("reached" if lines[-1][0] == "reached" else lines[-1][1], " ".join(lines[-1]))


@dataclass(frozen=True, slots=True)
class Attacks:
    """Every case as a job, and without its protections."""

    inside: Mapping[str, Outcome]
    unprotected: Mapping[tuple[str, frozenset[str]], Outcome]
    sockets_shared: bool  # with the node, for want of Landlock


def as_jobs(system: LocalSystem, programs: Path, objects: Mapping[str, str]) -> tuple[dict[str, Outcome], bool]:
    """What each case's program says as a job of its own; whether status names abstract sockets as shared."""
    with channel(system) as connection, ThreadPoolExecutor(AT_ONCE) as pool:
        stub = job_pb2_grpc.JobServiceStub(connection)
        outcomes = dict(pool.map(lambda case: (case.name, run(stub, case, programs, objects)), CASES))
        job_id = stub.RunJob(RunJobReq(command="true", network="host"), timeout=CALL_SECONDS).job.uuid
        job = stub.WaitJob(WaitJobReq(uuid=job_id), timeout=CALL_SECONDS).job
    return outcomes, any(shared.startswith(SHARED_SOCKETS) for shared in job.notIsolated)


def run(stub: job_pb2_grpc.JobServiceStub, case: Case, programs: Path, objects: Mapping[str, str]) -> Outcome:
    command, *arguments = case.argv("/work", objects)
    request = RunJobReq(
        command=command, args=arguments, network=case.network, workDir=case.work_dir, outputs=case.outputs,
        uploads=[FileUpload(path="escape", isDirectory=True), *uploads(case.program, programs)],
    )  # fmt: skip
    job_id = stub.RunJob(request, timeout=CALL_SECONDS).job.uuid
    chunks = stub.GetJobLogs(GetJobLogsReq(uuid=job_id), timeout=CALL_SECONDS)
    output = b"".join(chunk.payload for chunk in chunks).decode(errors="replace")
    ended = stub.GetJobStatus(GetJobStatusReq(uuid=job_id), timeout=CALL_SECONDS)
    if case.outputs:
        parts = stub.GetJobOutput(GetJobOutputReq(uuid=job_id), timeout=CALL_SECONDS)
        output += kept(
            case, b"".join(part.payload for part in parts).decode(errors="replace"), CUT_OFF in ended.message
        )
    return said(output, f"{ended.reason} {ended.message}".strip())


def kept(case: Case, contents: str, cut_off: bool) -> str:
    """What outputs add to what their program has said: that the trick worked after all, when it did. One that is after
    no file is after the time."""
    if MARK in contents or (cut_off and not case.arguments):
        return "reached what was kept\n" if MARK in contents else "reached the end of the time for collecting\n"
    return "stopped cut-off collecting\n" if cut_off else ""


def uploads(program: str, programs: Path) -> Iterator[FileUpload]:
    for name in (program, f"{program}.py", "attempt.py"):
        path = programs / name
        if path.exists():
            yield FileUpload(path=f"escape/{name}", content=path.read_bytes(), mode=0o755)


def without_protection(programs: Path, objects: Mapping[str, str]) -> dict[tuple[str, frozenset[str]], Outcome]:
    """What each case's program says with all that stops it taken away, and with all but one."""
    wanted = [(case, without) for case in CASES for without in chosen(case)]
    requests = [
        {
            "argv": case.argv("/opt", objects),
            "without": sorted(without),
            "network": case.network,
            "work_dir": case.work_dir or "/opt",
            "outputs": list(case.outputs),
        }
        for case, without in wanted
    ]
    done = subprocess.run(
        [sys.executable, "-m", "joblet.executor.unprotected_for_tests", programs, BUILD / "jobinits"],
        input="".join(json.dumps(request) + "\n" for request in requests), capture_output=True, text=True,
        timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        (case.name, without): said(answer["output"] + kept(case, answer["kept"], answer["cut_off"]), answer["end"])
        for (case, without), answer in zip(wanted, answers, strict=True)
    }


def chosen(case: Case) -> list[frozenset[str]]:
    """All of the case's variants; in user-mode Linux, where a launch takes a tenth of a second, only the first."""
    variants = list(case.variants())
    return variants[:1] if "User Mode Linux" in Path("/proc/cpuinfo").read_text() else variants


def attacked(system: LocalSystem) -> Attacks:
    programs = build()
    with world(system, programs) as objects:
        inside, sockets_shared = as_jobs(system, programs, objects)
        return Attacks(inside, without_protection(programs, objects), sockets_shared)


@pytest.fixture(scope="module")
def attacks(joblet: LocalSystem) -> Attacks:
    return attacked(joblet)


def gap(case: Case, attacks: Attacks) -> bool:
    """Whether this is a documented gap on this kernel: something that is told with the job instead of stopped."""
    return case.gap == "ever" or (case.gap == "landlock" and attacks.sockets_shared)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stopped_inside_a_job(attacks: Attacks, case: Case) -> None:
    outcome = attacks.inside[case.name]
    if gap(case, attacks):
        assert outcome.by == "reached", "a gap that is none any more: take it out of the documentation"
    else:
        assert outcome.by in case.must | (case.absent - {"EPERM"}), outcome


@pytest.mark.parametrize("case", [case for case in CASES if case.stopped_by], ids=lambda case: case.name)
def test_succeeds_without_what_stops_it(attacks: Attacks, case: Case) -> None:
    everything_off, *one_left = chosen(case)
    outcome = attacks.unprotected[case.name, everything_off]
    assert outcome.by in {"reached", *case.absent}, outcome
    for without in one_left:
        kept = set(case.stopped_by) - without
        text = attacks.unprotected[case.name, without].text
        assert text.startswith("stopped "), f"{kept} alone: {text}"


def test_attestation_is_kept_with_the_job_and_shown(joblet: LocalSystem) -> None:
    job_id = joblet.run("--network=none", "true")
    joblet.log(job_id)
    assert "Attested:" not in joblet.output("job", "status", job_id)
    _, _, printed = joblet.output("job", "status", "--detail", job_id).partition("Attested: ")
    facts = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in printed.splitlines()[1:])
    }
    assert (facts["CapEff"], facts["NoNewPrivs"], facts["Seccomp"]) == ("0" * 16, "1", "2")
    assert "/proc/sys" in facts["mounts"].split()
    shown = joblet.json("job", "status", job_id)["attestation"]
    assert isinstance(shown, dict)
    assert shown["facts"]["uid_map"] == facts["uid_map"]


def test_the_page_has_every_case() -> None:
    shown = table()
    assert list(shown) == [case.name for case in CASES]
    for case in CASES:
        tries, stopped_by, see, first, second, without = shown[case.name]
        assert (tries, stopped_by, see) == (case.tries, protections(case), case.see)
        assert {first, second} <= case.must | case.absent | {"reached", NOT_TRIED}, case.name
        assert without in case.absent | {"reached"} or not case.stopped_by, case.name


def table() -> dict[str, tuple[str, ...]]:
    """The cells of the page's rows by case, without the first."""
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): tuple(cell.strip() for cell in row[1:]) for row in rows if len(row) == COLUMNS}


def protections(case: Case) -> str:
    text = ", ".join(case.stopped_by) or "nothing"
    return f"{text} (network: host)" if case.network == "host" else text


def main() -> None:
    """Prints the rows of the table: what the page has of the other version of cgroups stays."""
    with tempfile.TemporaryDirectory(prefix="jbtest") as directory, local_system(Path(directory)) as system:
        attacks = attacked(system)
    before = table() if PAGE.exists() else {}
    for case in CASES:
        *_, first, second, without = before.get(case.name, (NOT_TRIED,) * 3)
        inside = attacks.inside[case.name].by
        if CGROUP_2.exists():
            second = inside
        else:
            first = inside
        if without != "reached":  # one kernel that has the thing is enough
            without = attacks.unprotected[case.name, next(case.variants())].by
        cells = (f"`{case.name}`", case.tries, protections(case), case.see, first, second, without)
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
