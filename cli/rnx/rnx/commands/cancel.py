"""`rnx cancel`."""

import click

from rnx.cli import Verb
from rnx.completing import WAITING
from rnx.session import connect, job_argument, show_message


@click.command(
    "cancel",
    cls=Verb,
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job cancel f47ac10b     # it was SCHEDULED or PENDING, now it is CANCELED
  rnx job stop f47ac10b       # for one that has started""",
)
@job_argument(*WAITING)
def cancel(job_id: str) -> None:
    """Take a job out that has not started: one that is SCHEDULED, or PENDING because it waits for room."""
    from joblet.api.job_pb2 import CancelJobReq
    from rnx import output

    with connect() as client:
        canceled = client.call(lambda stub: stub.CancelJob, CancelJobReq(uuid=job_id)).job
    show_message(canceled, output.canceled(canceled))
