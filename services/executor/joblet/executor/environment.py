"""The environment variables of a job's command: a fixed base, then the job's own; nothing of the executor's."""

import posixpath
from collections.abc import Mapping
from typing import Final

from joblet.common.errors import InvalidArgument
from joblet.executor.job import Order
from joblet.executor.jobspec import Profile

WORK: Final = "/work"
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment_of(order: Order) -> dict[str, str]:
    """All variables, secrets included: for the launch only, never for logs or disk.

    The job's own variables replace the base's, secrets replace both; JOB_ID and JOB_ATTEMPT cannot be replaced.
    """
    user = "root" if order.profile is Profile.BUILD else "joblet"
    base = {
        "PATH": DEFAULT_PATH,
        "HOME": WORK,
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
    }
    job = {"JOB_ID": order.shown_id} | ({"JOB_ATTEMPT": str(order.attempt)} if order.attempt else {})
    return {**base, **order.environment, **order.secrets, **job}


def check_environment(variables: Mapping[str, str], field: str) -> None:
    """Raises InvalidArgument for a name or value that execve(2) cannot carry. The value is never in the text."""
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidArgument(f"invalid environment variable name: {name!r}", field=field)
        if "\0" in value:
            raise InvalidArgument(f"environment variable {name} holds a NUL byte", field=field)


def work_dir_of(text: str) -> str:
    """The absolute directory inside the job that the command starts in; empty stands for /work."""
    if "\0" in text or (text and not text.startswith("/")):
        raise InvalidArgument(f"workDir must be an absolute path inside the job, got {text!r}", field="workDir")
    return posixpath.normpath(text) if text else WORK
