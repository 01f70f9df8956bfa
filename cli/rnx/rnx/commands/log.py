"""`rnx log`."""

import sys

import click

from rnx import params
from rnx.cli import Verb, flags
from rnx.session import JOB_ID, connect


@click.command(
    "log",
    cls=Verb,
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job log f47ac10b-58cc-4372-a567-0e02b2c3d479    # Stream logs
  rnx job log f47ac10b | grep ERROR                   # Filter output
  rnx job log -n 20 f47ac10b                          # The last lines and what comes
  rnx job log --attempt=1 f47ac10b                    # Of a job that was retried, the first attempt's
  rnx job log --attempt=2 -n 20 f47ac10b              # The last lines of its second attempt
  rnx job log --no-follow --since 10m -t f47ac10b     # The last ten minutes, with times""",
)
@click.option("--no-follow", is_flag=True, help="Print what is there and end")
@click.option("--tail", "-n", type=params.Lines(), metavar="N", help="Begin with the last N lines; 0: only what comes")
@click.option(
    "--since", type=params.Moment(), metavar="TIME", help='Begin at "10m" (ago), "14:30", "2024-01-15T10:30Z"'
)
@click.option("--until", type=params.Moment(), metavar="TIME", help="End before this time, written like --since")
@click.option(
    "--attempt", type=click.IntRange(min=1), metavar="N", help="Of a job that was retried: this attempt's output alone"
)
@click.option("--timestamps", "-t", is_flag=True, help="Print before each line when it was written (UTC)")
@JOB_ID
def log(
    job_id: str,
    no_follow: bool,
    tail: int | None,
    since: int | None,
    until: int | None,
    attempt: int | None,
    timestamps: bool,
) -> None:
    """Stream job output in real-time or view historical logs.

    Prints exactly the job's bytes and ends with the job. Ctrl+C stops following; the job goes on. Times are the node's,
    exact to 10 ms. Of a job that was retried it prints the output of all attempts, one behind the other, and says on
    stderr where each begins; --tail, --since and --until go through all of them.
    """
    from rnx import joblog

    as_json = flags().json
    heading = None if as_json else f"Logs for job {job_id} (Press Ctrl+C to exit if streaming):"
    wanted = joblog.request(
        job_id, no_follow=no_follow, tail=tail, since_ns=since, until_ns=until, timestamps=timestamps
    )
    wanted.attempt = attempt or 0
    write = joblog.writer(as_json=as_json, timestamps=timestamps)
    try:
        with connect() as client:
            joblog.follow(client, wanted, write, lambda text: click.echo(text, err=True), heading=heading)
    except KeyboardInterrupt:
        _stopped_following()


def _stopped_following() -> None:
    """After Ctrl+C: a line on stderr and the exit code of an interrupted command."""
    from rnx.errors import EXIT_INTERRUPTED

    if sys.stderr.isatty():
        click.echo(err=True)  # the terminal shows ^C: the text comes on the next line
    click.echo("Stopped following; the job is not touched by that.", err=True)
    click.get_current_context().exit(EXIT_INTERRUPTED)
