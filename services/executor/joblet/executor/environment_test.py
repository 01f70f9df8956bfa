import os

import pytest

from joblet.common.errors import InvalidArgument
from joblet.executor.environment import check_environment, environment_of, work_dir_of
from joblet.executor.jobspec import Profile
from joblet.executor.testing import JOB_ID, order


def test_the_base_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JBTEST_OF_THE_EXECUTOR", "secret")
    found = environment_of(order())
    assert found == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/work", "USER": "joblet",
        "LOGNAME": "joblet", "SHELL": "/bin/sh", "LANG": "C.UTF-8", "JOB_ID": JOB_ID,
    }  # fmt: skip
    assert os.environ["JBTEST_OF_THE_EXECUTOR"] == "secret"


def test_the_jobs_variables_replace_ours_and_secrets_replace_both() -> None:
    found = environment_of(
        order(environment={"LANG": "C", "A": "open", "JOB_ID": "other"}, secrets={"A": "hidden", "PATH": "/opt"})
    )
    assert (found["LANG"], found["A"], found["PATH"], found["JOB_ID"]) == ("C", "hidden", "/opt", JOB_ID)


def test_an_attempt_has_its_number_and_the_id_that_users_know() -> None:
    found = environment_of(order(job_id="other", attempt=3))
    assert (found["JOB_ID"], found["JOB_ATTEMPT"]) == (JOB_ID, "3")


def test_root_of_a_build_is_called_so() -> None:
    assert environment_of(order(profile=Profile.BUILD))["USER"] == "root"


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_names_that_no_environment_can_hold(name: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid environment variable name"):
        check_environment({name: "x"}, "environment")


def test_a_bad_secret_is_not_repeated_in_the_error() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        check_environment({"TOKEN": "hush\0hush"}, "secretEnvironment")
    assert "hush" not in str(refusal.value)
    assert refusal.value.field == "secretEnvironment"


@pytest.mark.parametrize(
    ("given", "meant"), [("", "/work"), ("/work/a/../b/", "/work/b"), ("/", "/"), ("/../../etc", "/etc")]
)
def test_working_directories(given: str, meant: str) -> None:
    assert work_dir_of(given) == meant


@pytest.mark.parametrize("given", ["work", "./x", "/a\0"])
def test_working_directories_that_are_refused(given: str) -> None:
    with pytest.raises(InvalidArgument, match="absolute path"):
        work_dir_of(given)
