"""Ids of jobs for the shell's completion: asked of the server, briefly; nothing where it does not answer."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from rnx.cli import flags_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

TIMEOUT_SECONDS = 1.0  # somebody waits at the keyboard
MOST = 50  # the newest; with more characters typed others come into reach

WAITING = ("SCHEDULED", "PENDING")
OPEN = (*WAITING, "INITIALIZING", "RUNNING")
ENDED = ("COMPLETED", "FAILED", "STOPPED", "CANCELED")

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

_BEGINNING = re.compile(r"[0-9a-f-]{0,36}", re.ASCII)


def jobs(statuses: Sequence[str] = ()) -> Complete:
    """For a parameter that takes the id of a job in one of these states (none given: in any)."""

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        if not _BEGINNING.fullmatch(incomplete):
            return []
        from joblet.common.errors import JobletError

        try:
            return _ask(context, statuses, incomplete)
        except JobletError:
            return []  # a completion has nowhere to say why; the command itself will

    return complete


def _ask(context: click.Context, statuses: Sequence[str], incomplete: str) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem

    from joblet.api.job_pb2 import EmptyRequest
    from rnx import output, settings
    from rnx.client import Client

    wanted = EmptyRequest(statuses=statuses, idPrefix=incomplete, newestFirst=True, pageSize=MOST)
    client = Client(settings.current(flags_of(context)))
    try:
        found = client.call(lambda stub: stub.ListJobs, wanted, TIMEOUT_SECONDS)
    finally:
        client.close()
    return [
        CompletionItem(job.id, help=f"{job.status} {output.printable(job.name) or output.command_line(job)}")
        for job in found.jobs
    ]
