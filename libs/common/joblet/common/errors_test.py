import subprocess
import sys

import pytest

from joblet.common import errors
from joblet.common.errors import Code, JobletError


def subclasses(kind: type[JobletError]) -> set[type[JobletError]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def test_texts_are_those_of_the_specification() -> None:
    assert str(errors.JobNotFound("f47ac10b")) == "job not found: f47ac10b"
    not_running = errors.JobNotRunning("6ba7b810", "COMPLETED")
    assert str(not_running) == "job is not running: 6ba7b810 (current status: COMPLETED)"
    assert (not_running.code, not_running.job_id, not_running.state) == (
        Code.FAILED_PRECONDITION,
        "6ba7b810",
        "COMPLETED",
    )


def test_every_class_of_this_module_is_drawn_with_its_code() -> None:
    drawing = {
        line.split("── ")[1].split()[0]: line.split() for line in (errors.__doc__ or "").splitlines() if "──" in line
    }
    for kind in subclasses(JobletError) - {JobletError}:
        if kind.__module__ == errors.__name__:
            assert kind.default_code in drawing[kind.__name__]


def test_all_problems_of_a_configuration_are_shown() -> None:
    error = errors.ConfigError(["a: wrong", "b: worse"], source="x.yml")
    assert str(error) == "invalid configuration in x.yml:\n  a: wrong\n  b: worse"
    assert error.problems == ("a: wrong", "b: worse")
    assert str(errors.ConfigError(["a: wrong"])) == "invalid configuration: a: wrong"


def test_parsers_errors_are_value_errors() -> None:
    with pytest.raises(ValueError, match="no number") as caught:
        raise errors.InvalidArgument("no number", field="maxCPU", hint="give one")
    assert isinstance(caught.value, errors.InvalidArgument)
    assert (caught.value.field, caught.value.hint) == ("maxCPU", "give one")


@pytest.mark.parametrize("code", list(Code))
def test_from_code_keeps_code_and_text(code: Code) -> None:
    error = errors.from_code(code, "text", hint="hint")
    assert (error.code, str(error), error.message, error.hint) == (code, "text", "text", "hint")


def test_light_modules_import_no_heavy_library() -> None:
    """rnx pays for every import at each command."""
    script = """if True:
        import sys
        from joblet.common import config, errors, ids, lifecycle, log, pki, roles, states, units, version
        print(sorted({"grpc", "cryptography", "prometheus_client", "google.protobuf"} & set(sys.modules)))
    """
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"
