"""`rnx stop`."""

import click

from rnx.cli import Verb, examples
from rnx.completing import OPEN
from rnx.session import connect, job_argument, show_message


@click.command(
    "stop",
    cls=Verb,
    options_metavar="[flags]",
    epilog=examples("rnx job stop f47ac10b-58cc-4372-a567-0e02b2c3d479", "rnx job stop f47ac10b"),
)
@job_argument(*OPEN)
def stop(job_id: str) -> None:
    """Stop a running job: SIGTERM, and SIGKILL to what is left after 100 ms."""
    from joblet.api.job_pb2 import StopJobReq
    from rnx import output

    with connect() as client:
        stopped = client.call(lambda stub: stub.StopJob, StopJobReq(uuid=job_id)).job
    show_message(stopped, output.stopped(stopped))
