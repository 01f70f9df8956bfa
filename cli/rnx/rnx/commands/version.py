"""`rnx version`."""

import json

import click

from joblet.common.version import VERSION
from rnx.cli import Verb, flags


@click.command(cls=Verb)
def version() -> None:
    """Print the version of rnx."""
    click.echo(json.dumps({"version": VERSION}, indent=2) if flags().json else f"rnx {VERSION}")
