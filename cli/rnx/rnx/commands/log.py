"""`rnx log`."""

import click

from rnx.cli import Verb, flags
from rnx.session import JOB_ID, connect


@click.command(
    "log",
    cls=Verb,
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job log f47ac10b-58cc-4372-a567-0e02b2c3d479    # Stream logs
  rnx job log f47ac10b | grep ERROR                   # Filter output""",
)
@click.option("--no-follow", is_flag=True, help="Print what is there and end")
@JOB_ID
def log(job_id: str, no_follow: bool) -> None:
    """Stream job output in real-time or view historical logs.

    Prints exactly the job's bytes and ends with the job. Ctrl+C stops following; the job goes on.
    """
    from rnx import joblog

    as_json = flags().json
    heading = None if as_json else f"Logs for job {job_id} (Press Ctrl+C to exit if streaming):"
    write = joblog.write_json if as_json else joblog.write_raw
    with connect() as client:
        joblog.follow(
            client, job_id, write, lambda text: click.echo(text, err=True), heading=heading, no_follow=no_follow
        )
