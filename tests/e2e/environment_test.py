"""What a job finds in its environment, and where it starts: asked from inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from local_system import LocalSystem, run_rnx

pytestmark = pytest.mark.root

TELL = "import json, os; print(json.dumps([dict(os.environ), os.getcwd()]))"


def told(joblet: LocalSystem, *arguments: str | Path, **own: str) -> tuple[dict[str, str], str]:
    """Environment and working directory of a job that is given these flags, by an rnx with this environment."""
    flags = ("--config", joblet.directory / "rnx-config.yml")
    done = run_rnx(*flags, "run", "--follow", *arguments, "python3", "-c", TELL, environment=own)
    assert done.returncode == 0, done.stderr.decode()
    variables, directory = json.loads(done.stdout)
    return variables, directory


def ids(joblet: LocalSystem) -> list[str]:
    return [line.split()[0] for line in joblet.output("list").splitlines()]


def test_the_base_and_nothing_of_ours(joblet: LocalSystem) -> None:
    variables, directory = told(joblet, LEAK="from rnx")
    job_id = variables.pop("JOB_ID")
    assert joblet.status(job_id)["Status"] == "COMPLETED"
    variables.pop("LC_CTYPE", None)  # set by python itself (PEP 538)
    assert variables == {
        "HOME": "/work",
        "USER": "joblet",
        "LOGNAME": "joblet",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    assert directory == "/work"


def test_flags_and_files(joblet: LocalSystem, tmp_path: Path) -> None:
    (tmp_path / "plain.env").write_text("# comment\nA=from file\nB='  quoted # \"x\" '\nexport C=3\nHERE\n")
    (tmp_path / "secret.env").write_text('S="two\\nlines"\n')
    variables, _ = told(
        joblet, "--env-file", tmp_path / "plain.env", "-e", "A=flag=1", "-e", "EMPTY=", "--secret-env-file",
        tmp_path / "secret.env", "-s", "TOKEN", "-e", "LANG=de_DE.UTF-8", "-e", "snow=☃",
        HERE="taken over", TOKEN="hidden",
    )  # fmt: skip
    wanted = {
        "A": "flag=1", "B": '  quoted # "x" ', "C": "3", "HERE": "taken over", "EMPTY": "", "S": "two\nlines",
        "TOKEN": "hidden", "LANG": "de_DE.UTF-8", "snow": "☃",
    }  # fmt: skip
    assert {name: variables[name] for name in wanted} == wanted
    status = joblet.json("status", variables["JOB_ID"])
    assert status["secret_environment"] == {"S": "***", "TOKEN": "***"}
    shown = status["environment"]
    assert isinstance(shown, dict)
    assert shown["A"] == "flag=1"


def test_the_working_directory(joblet: LocalSystem, tmp_path: Path) -> None:
    assert told(joblet, "--workdir=/tmp")[1] == "/tmp"
    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").touch()
    assert told(joblet, "--upload-dir", tmp_path / "src", "--workdir=/work/src")[1] == "/work/src"
    done = joblet.rnx("--json", "run", "--wait", "--workdir=/work/absent", "true")
    job = json.loads(done.stdout)
    assert (job["status"], done.returncode) == ("FAILED", job["exitCode"])
    assert "/work/absent" in job["message"]
    for wrong in ("relative", "a\nb"):
        refused = joblet.rnx("run", "--workdir", wrong, "true")
        assert refused.returncode == 1
        assert refused.stderr.decode().startswith("Error: invalid workDir: ")


@pytest.mark.parametrize("flag", ["--env", "--secret-env"])
@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("1A=canary", 'invalid FIELD: "1A" is not a name of a variable'),
        ("A B=canary", 'invalid FIELD: "A B" is not a name of a variable'),
        ("=canary", "FLAG: expected NAME=VALUE or NAME"),
    ],
)
def test_what_is_refused(joblet: LocalSystem, flag: str, assignment: str, text: str) -> None:
    before = ids(joblet)
    field = {"--env": "environment", "--secret-env": "secretEnvironment"}[flag]
    refused = joblet.rnx("run", flag, assignment, "true")
    assert refused.returncode in (1, 2)
    first = refused.stderr.decode().splitlines()[0]
    assert first == "Error: " + text.replace("FIELD", field).replace("FLAG", flag)
    assert ids(joblet) == before


@pytest.mark.parametrize(("flag", "field"), [("--env-file", "environment"), ("--secret-env-file", "secretEnvironment")])
def test_a_value_above_what_a_process_can_be_given(joblet: LocalSystem, tmp_path: Path, flag: str, field: str) -> None:
    (tmp_path / "big.env").write_text("BIG=canary" + "x" * 131_072)
    refused = joblet.rnx("run", flag, tmp_path / "big.env", "true")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert refused.stderr.decode() == f"Error: invalid {field}: BIG is longer than 131071 bytes\n"
