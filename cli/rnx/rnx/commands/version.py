"""`rnx version`."""

import json

import click

from joblet.common.version import VERSION
from rnx.cli import Verb, examples, flags


@click.command(cls=Verb, epilog=examples("rnx version", "rnx version --json"))
def version() -> None:
    """Print the version of rnx."""
    click.echo(json.dumps({"version": VERSION}, indent=2) if flags().json else f"rnx {VERSION}")
