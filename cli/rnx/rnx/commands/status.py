"""`rnx status`."""

import click

from rnx.cli import Verb, examples
from rnx.session import JOB_ID, connect, show_message


@click.command(
    "status",
    cls=Verb,
    options_metavar="[flags]",
    epilog=examples(
        "rnx job status f47ac10b-58cc-4372-a567-0e02b2c3d479",
        "rnx job status --detail f47ac10b",
        "rnx job status f47ac10b --json | jq .usage",
    ),
)
@click.option("--detail", is_flag=True, help="Also print limits, usage, uploads and how the isolation was attested")
@JOB_ID
def status(job_id: str, detail: bool) -> None:
    """Get detailed information about a job. The first characters of its id are enough."""
    from joblet.api.job_pb2 import GetJobStatusReq
    from rnx import output

    with connect() as client:
        found = client.call_repeatable(lambda stub: stub.GetJobStatus, GetJobStatusReq(uuid=job_id))
    lines = [*output.status(found), *(output.detail(found) if detail else ())]
    show_message(found, lines)
