"""`rnx doctor`."""

from pathlib import Path

import click

from rnx.cli import Verb, examples, flags

_FILE = click.option(
    "--config-file", "file", type=click.Path(path_type=Path), metavar="FILE",
    help="Configuration of the services (default /opt/joblet/joblet-config.yml, if it is there)",
)  # fmt: skip
_DIRECTORY = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), metavar="DIR", help="Directory of an `rnx local`"
)


@click.command(
    cls=Verb,
    options_metavar="[flags]",
    epilog=examples(
        "rnx doctor", "rnx doctor --dir build/local", "rnx doctor --json | jq '.[] | select(.status == \"failed\")'"
    ),
)
@_FILE
@_DIRECTORY
@click.pass_context
def doctor(context: click.Context, file: Path | None, directory: Path | None) -> None:
    """Check whether this machine can run jobs; for every gap, its cause and its cure.

    Run it as root on the node itself. It changes nothing. The exit code is 0 when nothing failed, else 1.
    """
    from rnx.doctor import examination, report
    from rnx.doctor.findings import exit_code
    from rnx.errors import BadUsage

    if file is not None and directory is not None:
        raise BadUsage("--config-file and --dir exclude each other", hint="--dir finds the configuration in DIR")
    findings = []
    for finding in examination.examine(examination.subject(file, directory)):
        findings.append(finding)
        if not flags().json:
            for line in report.lines(finding):
                click.echo(line)
    if flags().json:
        click.echo(report.as_json(findings))
    click.echo(report.summary(findings), err=True)
    context.exit(exit_code(findings))
