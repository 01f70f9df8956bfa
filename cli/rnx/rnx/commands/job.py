"""`rnx job`: run, status, list, stop, log. Each is also a verb of rnx itself.

Only click is imported here; what talks to the server is imported by the verb that runs.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rnx import params
from rnx.cli import Noun, Verb, flags

if TYPE_CHECKING:
    from joblet.api.job_pb2 import RunJobReq
    from rnx.client import Client

job = Noun("job", help="Run jobs and look after them. Every verb works without the word job, too.")

_JOB_ID = click.argument("job_id", metavar="JOB-UUID")


def _client(request_id: str | None = None) -> "Client":
    from rnx import settings
    from rnx.client import Client

    return Client(settings.current(flags()), request_id=request_id)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


@job.command(
    cls=Verb,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job run echo "hello world"
  rnx job run --max-cpu=50 python3 script.py
  rnx job run --max-memory=1024 java -jar app.jar
  rnx job run --upload script.py python3 script.py
  rnx job run bash -c "sleep 10 && echo done\"""",
)
@click.option("--max-cpu", type=params.Limit(), metavar="INT", help="Max CPU percentage (default: from config)")
@click.option("--max-memory", type=params.Limit(), metavar="INT", help="Max memory in MB (default: from config)")
@click.option("--max-iobps", type=params.Limit(), metavar="INT", help="Max I/O bytes per second (default: 0=unlimited)")
@click.option("--max-processes", type=params.Limit(), metavar="INT", help="Max processes (default: from config)")
@click.option("--cpu-cores", type=params.CpuList(), metavar="LIST", help='Cores to run on, such as "0-2,5"')
@click.option("--network", metavar="NAME", help='"host", "none" or a network (default: from config)')
@click.option("--env", "-e", "assignments", multiple=True, metavar="NAME[=VALUE]", help="Environment variable; repeat")
@click.option("--name", metavar="TEXT", help="A name to recognise the job by")
@click.option("--workdir", metavar="PATH", help="Directory inside the job to start in (default: /work)")
@click.option("--timeout", type=params.Duration(), metavar="TIME", help='Stop the job after "30s", "1h30m", ...')
@click.option(
    "--upload",
    "files",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Small file to put into the job's /work; repeat",
)
@click.option(
    "--request-id",
    metavar="TEXT",
    help="Name this request: a repetition with the same name gives the same job (default: a new UUID)",
)
@click.argument("command", metavar="COMMAND")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def run(
    max_cpu: int | None,
    max_memory: int | None,
    max_iobps: int | None,
    max_processes: int | None,
    cpu_cores: str | None,
    network: str | None,
    assignments: tuple[str, ...],
    name: str | None,
    workdir: str | None,
    timeout: int | None,
    files: tuple[Path, ...],
    request_id: str | None,
    command: str,
    arguments: tuple[str, ...],
) -> None:
    """Create and start a new job with optional resource limits.

    Flags of rnx end where the command begins: everything behind it belongs to the command.
    """
    from joblet.api.job_pb2 import FileUpload, RunJobReq
    from joblet.common.ids import new_job_id

    environment = params.environment(assignments, os.environ)
    request_id = request_id or new_job_id()
    texts = [command, *arguments, *environment, *environment.values(), network, name, workdir, request_id]
    for text in texts:
        params.checked_text("an argument", text or "")
    request = RunJobReq(
        command=command,
        args=arguments,
        maxCPU=max_cpu or 0,
        maxMemory=max_memory or 0,
        maxIOBPS=max_iobps or 0,
        maxProcesses=max_processes or 0,
        cpuCores=cpu_cores or "",
        network=network or "",
        environment=environment,
        name=name or "",
        workDir=workdir or "",
        timeoutSeconds=timeout or 0,
        requestId=request_id,
        uploads=[
            FileUpload(path=file.path, content=file.content, mode=file.mode, size=len(file.content))
            for file in params.uploads(files)
        ],
    )
    if request.ByteSize() > params.MAX_REQUEST_BYTES:
        raise params.too_large(f"a request of {request.ByteSize()} bytes")
    _run(request)


def _run(request: "RunJobReq") -> None:
    from rnx import output

    with _client(request.requestId) as client:
        started = client.call_repeatable(lambda stub: stub.RunJob, request).job
    _print([output.as_json(output.as_dict(started))] if flags().json else output.started(started))


@job.command(cls=Verb, options_metavar="[flags]")
@click.option("--detail", is_flag=True, help="Also print limits, usage, uploads and how the isolation was attested")
@_JOB_ID
def status(job_id: str, detail: bool) -> None:
    """Get detailed information about a job. The first characters of its id are enough."""
    from joblet.api.job_pb2 import GetJobStatusReq
    from rnx import output

    with _client() as client:
        found = client.call_repeatable(lambda stub: stub.GetJobStatus, GetJobStatusReq(uuid=job_id))
    if flags().json:
        _print([output.as_json(output.as_dict(found))])
        return
    _print(output.status(found))
    if detail:
        _print(output.detail(found))


@job.command("list", cls=Verb, options_metavar="[flags]")
@click.option(
    "--output", "-o", "form", type=click.Choice(["lines", "table", "json"]), default="lines", show_default=True,
    help="How to print the jobs",
)  # fmt: skip
def list_jobs(form: str) -> None:
    """List all jobs with their current status, oldest first."""
    from rnx import client, output

    with _client() as connected:
        jobs = client.list_jobs(connected)
        if flags().json or form == "json":
            _print(output.json_list("jobs", jobs))
        elif form == "table":
            _print(output.table(jobs))
        else:
            _print(output.line(entry) for entry in jobs)


@job.command(cls=Verb, options_metavar="[flags]")
@_JOB_ID
def stop(job_id: str) -> None:
    """Stop a running job: SIGTERM, and SIGKILL to what is left after 100 ms."""
    from joblet.api.job_pb2 import StopJobReq
    from rnx import output

    with _client() as client:
        stopped = client.call(lambda stub: stub.StopJob, StopJobReq(uuid=job_id)).job
    _print([output.as_json(output.as_dict(stopped))] if flags().json else output.stopped(stopped))


@job.command(
    cls=Verb,
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job log f47ac10b-58cc-4372-a567-0e02b2c3d479    # Stream logs
  rnx job log f47ac10b | grep ERROR                   # Filter output""",
)
@click.option("--no-follow", is_flag=True, help="Print what is there and end")
@_JOB_ID
def log(job_id: str, no_follow: bool) -> None:
    """Stream job output in real-time or view historical logs.

    Prints exactly the job's bytes and ends with the job. Ctrl+C stops following; the job goes on.
    """
    from rnx import joblog

    as_json = flags().json
    heading = None if as_json else f"Logs for job {job_id} (Press Ctrl+C to exit if streaming):"
    write = joblog.write_json if as_json else joblog.write_raw
    with _client() as client:
        joblog.follow(
            client, job_id, write, lambda text: click.echo(text, err=True), heading=heading, no_follow=no_follow
        )
