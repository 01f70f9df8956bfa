"""What every verb about jobs begins and ends with: a connection as the flags say, and lines on stdout.

Only click is imported here; what talks to the server is imported by the verb that runs.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from rnx.cli import flags

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from rnx.client import Client

JOB_ID = click.argument("job_id", metavar="JOB-UUID")


def connect(request_id: str | None = None) -> "Client":
    """To be left by `with`. The request id is the one that the server logs."""
    from rnx import settings
    from rnx.client import Client

    return Client(settings.current(flags()), request_id=request_id)


def show(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def show_message(message: "Message", lines: Iterable[str]) -> None:
    """The lines, or with --json the whole message."""
    from rnx import output

    show([output.as_json(output.as_dict(message))] if flags().json else lines)
