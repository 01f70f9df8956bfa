"""`rnx wait`."""

import time

import click

from rnx import params
from rnx.cli import WaitingVerb, flags
from rnx.completing import OPEN
from rnx.session import connect, job_arguments, show

EXIT_CODES = """\b
Exit codes:
  0-255  the job's own; 128+n when signal n ended it. Of several jobs, in the order given, the first that is not 0.
  124    the job was stopped by its timeout; or --timeout passed and it still runs
  125    rnx does not know how the job ended: refused, no connection, job or node lost. "Error: ..." says which.
  130    Ctrl+C; the job goes on
  143    the job was stopped or canceled by request"""


@click.command(
    "wait",
    cls=WaitingVerb,
    options_metavar="[flags]",
    epilog=f"""\b
Examples:
  rnx job wait f47ac10b                     # until it has ended
  rnx job wait f47ac10b 6ba7b810            # until both have
  rnx job wait --timeout 10m f47ac10b || echo "exit code $?"

{EXIT_CODES}""",
)
@click.option("--timeout", type=params.Duration(), metavar="TIME", help='Give up after "30s", "1h30m", ...; jobs go on')
@job_arguments(*OPEN)
@click.pass_context
def wait(context: click.Context, job_ids: tuple[str, ...], timeout: int | None) -> None:
    """Wait until jobs have ended. The job's exit code becomes that of rnx.

    Goes on waiting when the gateway is restarted. Ctrl+C leaves; the jobs go on. Of several jobs all must be there
    before the first is waited for; with --json those that have ended are shown also when another could not be waited
    for.
    """
    from rnx import output, waiting

    deadline = None if timeout is None else time.monotonic() + timeout
    ended = []
    with connect() as client:
        if len(job_ids) > 1:
            waiting.check_known(client, job_ids)
        try:
            for job_id in job_ids:
                job = waiting.until_end(client, job_id, deadline)
                ended.append(job)
                if not flags().json:
                    show(output.ended(job))
        finally:
            if flags().json and ended:
                show(output.json_list("jobs", ended))
    context.exit(next(filter(None, map(waiting.exit_code, ended)), 0))
