"""`rnx get`: what was kept of a job's /work."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rnx.cli import Verb, flags
from rnx.session import JOB_ID, connect, show

if TYPE_CHECKING:
    from joblet.api.job_pb2 import FileUpload
    from rnx.client import Client


@click.command(
    "get",
    cls=Verb,
    options_metavar="[flags]",
    epilog="""\b
Examples:
  rnx job run --output 'results/**' --output '*.log' ./train
  rnx job get f47ac10b --list
  rnx job get f47ac10b -o results            # everything, below ./results
  rnx job get f47ac10b report.csv -o -       # one file, to standard output""",
)
@click.option("--list", "only_list", is_flag=True, help="Show what was kept instead of fetching it")
@click.option(
    "--output-dir", "-o", "directory", type=click.Path(path_type=Path), default=".", metavar="DIR",
    help='Directory to write to, "-" for one file to standard output (default: the current one)',
)  # fmt: skip
@JOB_ID
@click.argument("path", metavar="[PATH]", default="")
def get(job_id: str, path: str, only_list: bool, directory: Path) -> None:
    """Fetch what was kept of a job's /work: what it declared with --output, once it has ended.

    PATH is a file, or a directory with everything in it. Files that are here already are replaced.
    """
    with connect() as client:
        if only_list:
            _list(client, job_id, path)
        else:
            _fetch(client, job_id, path, directory)


def _list(client: "Client", job_id: str, path: str) -> None:
    from rnx import output

    wanted = path.rstrip("/")
    files = [file for file in _files(client, job_id) if not wanted or f"{file.path}/".startswith(f"{wanted}/")]
    show(output.json_list("files", files) if flags().json else map(output.kept_file, files))


def _files(client: "Client", job_id: str) -> "Iterator[FileUpload]":
    from joblet.api.job_pb2 import ListJobOutputsReq

    token = ""
    while True:
        page = client.call_repeatable(lambda stub: stub.ListJobOutputs, ListJobOutputsReq(uuid=job_id, pageToken=token))
        yield from page.files
        token = page.nextPageToken
        if not token:
            return


def _fetch(client: "Client", job_id: str, path: str, directory: Path) -> None:
    import grpc

    from joblet.api.job_pb2 import GetJobOutputReq
    from rnx import treewrite

    chunks = client.stream(lambda stub: stub.GetJobOutput, GetJobOutputReq(uuid=job_id, path=path))
    try:
        if str(directory) == "-":
            treewrite.contents(chunks, sys.stdout.buffer)
            return
        written = treewrite.write(chunks, directory, lambda text: click.echo(text, err=True))
    except grpc.RpcError as error:
        raise client.explained(error) from error
    finally:
        chunks.cancel()
    click.echo(f"{written.count} files and directories written to {directory}", err=True)
    if written.refused:
        click.get_current_context().exit(1)
