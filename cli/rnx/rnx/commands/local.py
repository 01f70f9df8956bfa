"""`rnx local`: up, status, down; and two verbs that the supervisor uses."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rnx.cli import Noun, Verb, examples, flags

if TYPE_CHECKING:
    from rnx.local.layout import Layout

local = Noun("local", help="A Joblet of its own on this machine, with everything in one directory.")

_DIRECTORY = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where everything lives"
)


def _layout(directory: Path) -> "Layout":
    from rnx.local.layout import layout_of

    return layout_of(directory)


@local.command(
    cls=Verb,
    options_metavar="[flags]",
    epilog=examples("rnx local up --dir build/local", "rnx local up --dir /srv/joblet --port 50051 --detach"),
)
@_DIRECTORY
@click.option(
    "--port", type=click.IntRange(1, 65_535), metavar="INT",
    help="Port of the public API (default: the one of the last time, at first 50051)",
)  # fmt: skip
@click.option("--detach", is_flag=True, help="Return when everything is ready; without it, Ctrl+C takes all down")
def up(directory: Path, port: int | None, detach: bool) -> None:
    """Start gateway, executor, logstore and runtime, and keep them running. Needs root."""
    from rnx.local import up as starting

    layout = _layout(directory)
    starting.start(layout, port, detach=detach)
    _announce(layout)


def _announce(layout: "Layout") -> None:
    """How to use a system that is ready."""
    from rnx.local import status as looking
    from rnx.output import as_json

    found = looking.of(layout)
    gateway = found.services[0]
    if flags().json:
        click.echo(as_json({"directory": found.directory, "address": gateway.address, "config": found.config}))
        return
    click.echo(f"Joblet is running at {gateway.address}, everything is in {found.directory}")
    click.echo("Use it with:")
    click.echo(f"  rnx --config {found.config} job run echo hello")
    click.echo(f"  rnx --config {found.config} job list")
    click.echo("Look after it with:")
    click.echo(f"  rnx local status --dir {found.directory}")
    click.echo(f"  rnx local down --dir {found.directory}")


@local.command(
    cls=Verb,
    options_metavar="[flags]",
    epilog=examples("rnx local status --dir build/local"),
)
@_DIRECTORY
@click.pass_context
def status(context: click.Context, directory: Path) -> None:
    """Show the services, their health, addresses and metrics. The exit code is 0 if all are serving, else 1."""
    from dataclasses import asdict

    from rnx.local import status as looking
    from rnx.output import as_json

    found = looking.of(_layout(directory))
    if flags().json:
        click.echo(as_json({**asdict(found), "serving": found.serving}))
    elif not found.services:
        click.echo(f"There is no Joblet in {found.directory}")
    else:
        click.echo(f"{'SERVICE':<10} {'PID':<8} {'HEALTH':<12} {'RESTARTS':<9} {'ADDRESS':<18} METRICS")
        for row in found.services:
            state = f"{row.service:<10} {row.pid or '-':<8} {row.health:<12} {row.restarts:<9}"
            click.echo(f"{state} {row.address:<18} {row.metrics}" + (f"  ({row.reason})" if row.reason else ""))
        click.echo(f"Supervisor: {found.supervisor or 'not running'}")
        click.echo(f"Config: {found.config}")
    context.exit(0 if found.serving else 1)


@local.command(
    cls=Verb,
    options_metavar="[flags]",
    epilog=examples("rnx local down --dir build/local"),
)
@_DIRECTORY
def down(directory: Path) -> None:
    """Stop the running jobs and the services. Certificates, history and output stay in DIR."""
    from dataclasses import asdict

    from rnx.local import down as stopping
    from rnx.output import as_json

    layout = _layout(directory)
    done = stopping.stop(layout)
    if flags().json:
        click.echo(as_json({"directory": str(layout.directory), **asdict(done)}))
        return
    if done.jobs:
        click.echo(f"Stopped {len(done.jobs)} job{'s' if len(done.jobs) > 1 else ''}: {', '.join(done.jobs)}")
    if done.jobs_error:
        click.echo(f"Jobs could not be asked to stop ({done.jobs_error}); what was running was killed.")
    if done.services:
        click.echo(f"Stopped {', '.join(done.services)}")
    for line in done.removed:
        click.echo(f"Removed {line}")
    click.echo(f"Nothing is running in {layout.directory}; the data stays there.")


@local.command(cls=Verb, hidden=True)
@_DIRECTORY
def await_ready(directory: Path) -> None:
    """Wait until the services are ready and say how to use them (for the supervisor)."""
    import os

    from rnx.local import ready
    from rnx.local.layout import read_ports

    layout, supervisor = _layout(directory), os.getppid()
    chosen = read_ports(layout)
    if chosen is not None:
        ready.wait(layout, chosen, lambda: os.getppid() == supervisor)
    _announce(layout)
    click.echo("Ctrl+C stops the jobs and takes everything down.")


@local.command(cls=Verb, hidden=True)
@_DIRECTORY
def stop_jobs(directory: Path) -> None:
    """Stop every job through the API (for the supervisor)."""
    from rnx.local import down as stopping

    for job_id in stopping.stop_jobs(_layout(directory), stopping.RESTART_SECONDS):
        click.echo(f"Stopped job {job_id}")
