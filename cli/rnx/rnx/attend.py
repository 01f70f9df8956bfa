"""`rnx run --wait` and `--follow`: what is shown of a job that was just started, until it has ended.

--wait            stdout: "Job started:" and "Job ended:" with their lines; with --json the final status
--follow          stdout: the job's bytes and nothing else; with --json its chunks, one object a line
both              stderr: what rnx has to say
"""

from typing import TYPE_CHECKING

import click

from rnx import output, waiting
from rnx.session import show

if TYPE_CHECKING:
    from joblet.api.job_pb2 import GetJobStatusRes
    from rnx.client import Client


def attend(client: "Client", job: "GetJobStatusRes", *, follow: bool, stop: bool, as_json: bool) -> int:
    """The exit code of rnx: the job's own, or see `waiting`."""
    leaving = waiting.leaving_on_interrupt(job.uuid, _say)
    stopping = waiting.stopping_on_interrupt(client, job.uuid, _say, wanted=stop)
    with leaving, stopping:  # before anything is shown: who has read of the job may press Ctrl+C at once
        if follow:
            _say(f"Job {job.uuid} started (Ctrl+C {'stops it' if stop else 'leaves; the job goes on'})")
        elif not as_json:
            show(output.started(job))
        if follow:
            _follow(client, job.uuid, as_json)
        ended = waiting.until_end(client, job.uuid)
    if follow:
        _say_end(ended)
    else:
        show([output.as_json(output.as_dict(ended))] if as_json else output.ended(ended))
    return waiting.exit_code(ended)


def _follow(client: "Client", job_id: str, as_json: bool) -> None:
    from rnx import joblog

    write = joblog.writer(as_json=as_json, timestamps=False)
    joblog.follow(client, joblog.request(job_id), write, _say, heading=None)


def _say_end(job: "GetJobStatusRes") -> None:
    """Only what the exit code does not tell."""
    if waiting.exit_code(job):
        why = f". {output.reason(job)}" if job.reason else ""
        _say(f"Job {job.uuid} {job.status}, exit code {job.exitCode}{why}")


def _say(text: str) -> None:
    click.echo(text, err=True)
