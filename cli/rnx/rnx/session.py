"""What every verb about jobs begins and ends with: a connection as the flags say, and lines on stdout.

Only click is imported here; what talks to the server is imported by the verb that runs.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rnx import completing
from rnx.cli import flags

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from rnx.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def job_argument(*statuses: str) -> Callable[[F], F]:
    """The one job that a verb is about; a shell completes those in one of these states (none given: in any)."""
    return click.argument("job_id", metavar="JOB-UUID", shell_complete=completing.jobs(statuses))


def job_arguments(*statuses: str) -> Callable[[F], F]:
    """One job or more, as `job_ids`."""
    return click.argument(
        "job_ids", metavar="JOB-UUID...", nargs=-1, required=True, shell_complete=completing.jobs(statuses)
    )


JOB_ID = job_argument()


def connect(request_id: str | None = None) -> "Client":
    """To be left by `with`. The request id is the one that the server logs."""
    from rnx import settings
    from rnx.client import Client

    return Client(settings.current(flags()), request_id=request_id)


def show(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def columns() -> int | None:
    """Of the terminal that shows stdout; None where there is none: what is read by programs is never cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def coloured(text: str, colour: str) -> str:
    """Only on a terminal, and not where NO_COLOR (no-color.org) or a dumb terminal says otherwise."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return click.style(text, fg=colour) if wanted else text


def show_message(message: "Message", lines: Iterable[str]) -> None:
    """The lines, or with --json the whole message."""
    from rnx import output

    show([output.as_json(output.as_dict(message))] if flags().json else lines)
