"""`rnx list`."""

from typing import TYPE_CHECKING

import click

from rnx import params
from rnx.cli import Verb, flags
from rnx.session import coloured, columns, connect, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from click.shell_completion import CompletionItem
    from google.protobuf.timestamp_pb2 import Timestamp

    from joblet.api.job_pb2 import Job

STATUSES = ("SCHEDULED", "PENDING", "INITIALIZING", "RUNNING", "COMPLETED", "FAILED", "STOPPED", "CANCELED")
COLOURS = {"COMPLETED": "green", "FAILED": "red", "STOPPED": "yellow", "CANCELED": "yellow", "RUNNING": "cyan"}


class Status(click.Choice[str]):
    """Shown and sent as the API writes it, typed in any case."""

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        return super().convert(value.upper(), parameter, context)

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        return super().shell_complete(context, parameter, incomplete.upper())


@click.command(
    "list",
    cls=Verb,
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job list                                    # a line a job, oldest first
  rnx job list -o table --limit 20                # the newest twenty, newest first
  rnx job list --status FAILED --label team=data --since 2h
  rnx job list --name 'nightly-*' --json | jq -r '.jobs[].id'""",
)
@click.option(
    "--output",
    "-o",
    "form",
    type=click.Choice(["lines", "table", "json"]),
    default="lines",
    show_default=True,
    help="How to print the jobs",
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=Status(STATUSES),
    metavar="STATUS",
    help="Only jobs in this state; repeat for one of several",
)
@click.option("--label", "-l", "labels", multiple=True, metavar="NAME=VALUE", help="Only jobs with this label; repeat")
@click.option("--name", metavar="GLOB", help='Only jobs with such a name, "nightly-*"')
@click.option("--node-id", metavar="ID", help="Only jobs of this node")
@click.option(
    "--since",
    type=params.Moment(),
    metavar="TIME",
    help='Only jobs submitted since "2h" (ago), "14:30", "2024-01-15T10:30Z"',
)
@click.option("--until", type=params.Moment(), metavar="TIME", help="Only jobs submitted before, written like --since")
@click.option("--limit", type=params.Count(), metavar="N", help="Only the newest N of them (default: all)")
def list_jobs(
    form: str,
    statuses: tuple[str, ...],
    labels: tuple[str, ...],
    name: str | None,
    node_id: str | None,
    since: int | None,
    until: int | None,
    limit: int | None,
) -> None:
    """List all jobs with their current status, or those that meet all of the flags.

    Oldest first; as a table newest first and as wide as the terminal.
    """
    from joblet.api.job_pb2 import EmptyRequest
    from rnx import client, output

    form = "json" if flags().json else form
    wanted = EmptyRequest(
        statuses=statuses,
        labels=params.labels(labels),
        name=name or "",
        nodeId=node_id or "",
        since=_timestamp(since),
        until=_timestamp(until),
        newestFirst=form == "table" or bool(limit),
    )
    with connect() as connected:
        jobs: Iterator[Job] = client.list_jobs(connected, wanted, limit or None)
        if limit and form != "table":
            jobs = reversed(list(jobs))
        if form == "json":
            show(output.json_list("jobs", jobs))
        elif form == "table":
            show(_table(list(jobs)))
        else:
            show(output.line(entry) for entry in jobs)


def _timestamp(ns: int | None) -> "Timestamp | None":
    from google.protobuf.timestamp_pb2 import Timestamp

    from joblet.common.units import NS_PER_SECOND

    return None if ns is None else Timestamp(seconds=ns // NS_PER_SECOND, nanos=ns % NS_PER_SECOND)


def _table(jobs: "Sequence[Job]") -> "Iterator[str]":
    from rnx import table

    for row in table.rows(jobs, columns()):
        cells = list(row.cells)
        if len(cells) > table.STATUS and (colour := COLOURS.get(cells[table.STATUS].strip())):
            cells[table.STATUS] = coloured(cells[table.STATUS], colour)
        yield str(table.Row(tuple(cells)))
