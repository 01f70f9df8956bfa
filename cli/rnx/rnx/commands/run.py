"""`rnx run`: its flags, sending the request, and what is printed of the answer."""

from pathlib import Path
from typing import Any

import click

from rnx import params
from rnx.cli import Verb, flags, waiting_flag
from rnx.runrequest import RunFlags, build
from rnx.session import connect, show_message

FILE = click.Path(path_type=Path)


@click.command(
    "run",
    cls=Verb,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job run echo "hello world"
  rnx job run --max-cpu=50 python3 script.py
  rnx job run --max-memory=1024 java -jar app.jar
  rnx job run --upload script.py python3 script.py
  rnx job run --upload-dir src --workdir /work/src make test
  rnx job run bash -c "sleep 10 && echo done"
  rnx job run --follow make test            # its output here; exits as it does
  rnx job run -e MODE=fast -s API_TOKEN --secret-env-file db.env ./serve
  rnx job run --name nightly -l team=data -l env=prod ./train
  rnx job run --schedule="2030-01-31 22:00" ./report
  rnx job run --schedule=1h30m ./report     # rnx job cancel takes it back
  rnx job run --retries=3 --retry-backoff=10s --no-retry-on=2 ./flaky
  rnx job run --priority=10 ./urgent        # before all that wait with less
  rnx job run --wait --timeout=1h ./train || echo "exit code $?"

\b
With --wait or --follow, rnx exits as the job did; see rnx job wait --help.""",
)
@click.option("--max-cpu", type=params.Limit(), metavar="INT", help="Max CPU percentage (default: from config)")
@click.option("--max-memory", type=params.Limit(), metavar="INT", help="Max memory in MB (default: from config)")
@click.option("--max-iobps", type=params.Limit(), metavar="INT", help="Max I/O bytes per second (default: 0=unlimited)")
@click.option("--max-processes", type=params.Limit(), metavar="INT", help="Max processes (default: from config)")
@click.option("--cpu-cores", type=params.CpuList(), metavar="LIST", help='Cores to run on, such as "0-2,5"')
@click.option("--network", metavar="NAME", help='"host", "none" or a network (default: from config)')
@click.option("--env", "-e", "assignments", multiple=True, metavar="NAME[=VALUE]", help="Environment variable; repeat")
@click.option(
    "--env-file",
    "env_files",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="NAME=VALUE a line, as a .env file; repeat",
)
@click.option(
    "--secret-env",
    "-s",
    "secret_assignments",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Environment variable that nobody is shown. NAME alone takes the value from rnx's own environment: other users"
    " of this machine can read NAME=VALUE on the command line while rnx runs",
)
@click.option(
    "--secret-env-file",
    "secret_env_files",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="The same from a file; repeat",
)
@click.option("--name", metavar="TEXT", help="A name to recognise the job by")
@click.option("--label", "-l", "labels", multiple=True, metavar="NAME=VALUE", help="Label to find the job by; repeat")
@click.option(
    "--workdir", metavar="PATH", help="Directory inside the job to start in; it must exist there (default: /work)"
)
@click.option("--timeout", type=params.Duration(), metavar="TIME", help='Stop the job after "30s", "1h30m", ...')
@click.option(
    "--upload",
    "files",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File to put into the job's /work; repeat",
)
@click.option(
    "--upload-dir",
    "directories",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help='Directory to put into /work with everything in it, as /work/DIR; the contents of "." go there themselves',
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="GLOB",
    help='What of /work is kept after the end, for rnx job get: "*.log", "results/**", a directory; repeat',
)
@click.option(
    "--request-id",
    metavar="TEXT",
    help="Name this request: a repetition with the same name gives the same job (default: a new UUID)",
)
@click.option(
    "--schedule",
    type=params.Schedule(),
    metavar="TIME",
    help='Start it then: "30s", "1h30m", "2025-01-31 22:00", "2025-01-31T22:00:00Z"; without a zone in that of here',
)
@click.option(
    "--retries", type=params.Limit(), metavar="N", help="Run it again when it fails, N times at most (default: 0)"
)
@click.option(
    "--retry-backoff",
    type=params.Duration(),
    metavar="TIME",
    help="Wait so long before the second attempt, then twice as long each time (default: 1s)",
)
@click.option("--no-retry-on", type=params.Codes(), metavar="CODES", help='Exit codes that end it: "2,64-113"')
@click.option(
    "--priority",
    type=params.Priority(),
    metavar="INT",
    help="Of the jobs that wait for room, those with a higher one go first: -1000 to 1000 (default: 0)",
)
@waiting_flag("--wait", help="Wait until the job has ended and exit with its exit code")
@waiting_flag(
    "--follow", "-f", help="Print the job's output while it runs, nothing else on stdout, and exit as --wait does"
)
@click.option(
    "--stop-on-interrupt",
    is_flag=True,
    help="With --wait or --follow: Ctrl+C stops the job (else it goes on), twice leaves at once",
)
@click.argument("command", metavar="COMMAND")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
@click.pass_context
def run(
    context: click.Context,
    /,
    command: str,
    arguments: tuple[str, ...],
    wait: bool,
    follow: bool,
    stop_on_interrupt: bool,
    **given: Any,
) -> None:
    """Create and start a new job with optional resource limits.

    Flags of rnx end where the command begins: everything behind it belongs to the command.
    """
    from rnx import output, uploads

    asked = RunFlags(**given)
    request = build(asked, command, arguments)
    if stop_on_interrupt and not (wait or follow):
        raise click.UsageError("--stop-on-interrupt goes with --wait or --follow", context)
    room = params.MAX_REQUEST_BYTES - params.UPLOADS_BYTES - request.ByteSize()
    sources = uploads.plan(asked.files, asked.directories, room)
    with connect(request.requestId) as client:
        started = uploads.run(client, request, sources)
        if wait or follow:
            from rnx import attend

            context.exit(attend.attend(client, started, follow=follow, stop=stop_on_interrupt, as_json=flags().json))
    show_message(started, output.started(started))
