"""`rnx list`."""

import click

from rnx.cli import Verb, flags
from rnx.session import connect, show


@click.command("list", cls=Verb, options_metavar="[flags]")
@click.option(
    "--output", "-o", "form", type=click.Choice(["lines", "table", "json"]), default="lines", show_default=True,
    help="How to print the jobs",
)  # fmt: skip
def list_jobs(form: str) -> None:
    """List all jobs with their current status, oldest first."""
    from rnx import client, output

    with connect() as connected:
        jobs = client.list_jobs(connected)
        if flags().json or form == "json":
            show(output.json_list("jobs", jobs))
        elif form == "table":
            show(output.table(jobs))
        else:
            show(output.line(entry) for entry in jobs)
