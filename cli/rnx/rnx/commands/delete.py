"""`rnx delete` and `rnx delete-all`."""

import click

from rnx.cli import Verb, flags
from rnx.completing import ENDED
from rnx.session import connect, job_arguments, show


@click.command(
    "delete",
    cls=Verb,
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job delete f47ac10b
  rnx job delete f47ac10b 6ba7b810
  rnx job list --status FAILED --json | jq -r '.jobs[].id' | xargs rnx job delete""",
)
@job_arguments(*ENDED)
@click.pass_context
def delete(context: click.Context, /, job_ids: tuple[str, ...]) -> None:
    """Delete jobs that have ended: their output, what they left and everything known of them.

    Jobs that still wait or run are refused. Deleted jobs cannot be brought back.
    """
    from joblet.api.job_pb2 import DeleteJobReq
    from joblet.common.errors import JobletError
    from rnx import errors, output

    deleted: list[str] = []
    refused: list[JobletError] = []
    with connect() as client:
        for job_id in job_ids:
            try:
                deleted.append(client.call(lambda stub: stub.DeleteJob, DeleteJobReq(uuid=job_id)).uuid)
            except JobletError as error:
                refused.append(error)
                click.echo((errors.as_json if flags().json else errors.as_text)(error), err=True)
            else:
                if not flags().json:
                    show(output.deleted(deleted[-1]))
    if flags().json:
        show([output.as_json({"deleted": deleted})])
    if refused:
        context.exit(errors.exit_code(refused[0]))


@click.command(
    "delete-all",
    cls=Verb,
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job delete-all""",
)
def delete_all() -> None:
    """Delete every job that has ended. Jobs that still wait or run are left alone."""
    from joblet.api.job_pb2 import DeleteAllJobsReq
    from rnx import output

    with connect() as client:
        done = client.call_repeatable(lambda stub: stub.DeleteAllJobs, DeleteAllJobsReq())
    if flags().json:
        show([output.as_json(output.as_dict(done))])
    else:
        show([f"Deleted: {done.deleted}", f"Skipped: {done.skipped} (not ended)"])
