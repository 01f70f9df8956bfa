"""`rnx get`: what was kept of a job's /work."""

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rnx.cli import Verb, flags
from rnx.session import JOB_ID, connect, show

if TYPE_CHECKING:
    from joblet.api.job_pb2 import FileUpload, ListJobOutputsReq, ListJobOutputsRes
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
  rnx job get f47ac10b report.csv -o -       # one file, to standard output
  rnx job get f47ac10b --attempt 1 -o first  # of a job that was retried, the first attempt's""",
)
@click.option("--list", "only_list", is_flag=True, help="Show what was kept instead of fetching it")
@click.option(
    "--output-dir", "-o", "directory", type=click.Path(path_type=Path), default=".", metavar="DIR",
    help='Directory to write to, "-" for one file to standard output (default: the current one)',
)  # fmt: skip
@click.option(
    "--attempt", type=click.IntRange(min=1), metavar="N",
    help="Of a job that was retried: what this attempt left (default: the latest)",
)  # fmt: skip
@JOB_ID
@click.argument("path", metavar="[PATH]", default="")
def get(job_id: str, path: str, only_list: bool, directory: Path, attempt: int | None) -> None:
    """Fetch what was kept of a job's /work: what it declared with --output, once it has ended.

    PATH is a file, or a directory with everything in it. Files that are here already are replaced. When the gateway
    goes away in the middle, fetching goes on where it broke off. Of a job that was retried, --list says which attempts
    have outputs. With --json, what was fetched is printed (not with -o -).
    """
    with connect() as client:
        if only_list:
            _list(client, job_id, path, attempt or 0)
        else:
            _fetch(client, job_id, path, directory, attempt or 0)


def _list(client: "Client", job_id: str, path: str, attempt: int) -> None:
    from joblet.api.job_pb2 import ListJobOutputsReq
    from joblet.common import tree
    from joblet.common.errors import NotFound
    from rnx import output

    wanted = path.rstrip("/")
    pages = _pages(client, ListJobOutputsReq(uuid=job_id, attempt=attempt))
    first = next(pages)
    files = [file for file in _files(first, pages) if not wanted or f"{file.path}/".startswith(f"{wanted}/")]
    if wanted and not files:
        raise NotFound(
            f"no such output of job {job_id}: {tree.quoted(os.fsencode(path))}",
            hint="without PATH, rnx job get --list shows all",
        )
    if flags().json:
        attempts = [output.as_dict(some) for some in first.attempts]
        show(output.json_list("files", files, {"attempt": first.attempt, "attempts": attempts}))
        return
    for line in output.attempts_with_outputs(first):
        _say(line)
    show(map(output.kept_file, files))


def _pages(client: "Client", request: "ListJobOutputsReq") -> "Iterator[ListJobOutputsRes]":
    while True:
        page = client.call_repeatable(lambda stub: stub.ListJobOutputs, request)
        yield page
        request.pageToken = page.nextPageToken
        if not request.pageToken:
            return


def _files(first: "ListJobOutputsRes", others: "Iterator[ListJobOutputsRes]") -> "Iterator[FileUpload]":
    for page in itertools.chain([first], others):
        yield from page.files


def _fetch(client: "Client", job_id: str, path: str, directory: Path, attempt: int) -> None:
    from joblet.api.job_pb2 import GetJobOutputReq
    from rnx import fetching, output, treewrite

    files: list[FileUpload] = []
    with closing(fetching.chunks(client, GetJobOutputReq(uuid=job_id, path=path, attempt=attempt), _say)) as chunks:
        if str(directory) == "-":
            treewrite.contents(chunks, sys.stdout.buffer)
            return
        wrote = (lambda first: files.append(output.fetched(first))) if flags().json else None
        written = treewrite.write(chunks, directory, _say, wrote)
    if flags().json:
        show(output.json_list("files", files, {"directory": str(directory), "refused": written.refused}))
    _say(f"{written.count} files and directories written to {directory}")
    if written.refused:
        click.get_current_context().exit(1)


def _say(text: str) -> None:
    click.echo(text, err=True)
