"""`rnx certs`: init, issue, show. Works on files only; nothing of it talks to a server."""

import re
from datetime import UTC, datetime
from pathlib import Path

import click

from rnx.cli import Noun, Verb, examples, flags

DIRECTORY = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), default=Path("certs"), show_default=True, metavar="DIR",
    help="Directory of the certificates",
)  # fmt: skip
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
LONGEST_DAYS = 36_500

certs = Noun("certs", help="Certificates of an installation: make, look at.")


@certs.command(
    cls=Verb,
    options_metavar="[flags]",
    epilog=examples("rnx certs init", "rnx certs init --dir certs --host joblet.example.com"),
)
@DIRECTORY
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Name or address of the server, besides localhost")
@click.option("--node-id", default="node-1", show_default=True, metavar="ID", help="Id of the node")
def init(directory: Path, hosts: tuple[str, ...], node_id: str) -> None:
    """Create a CA and the certificates of gateway, node, admin and viewer.

    client-cert.pem and client-key.pem, which rnx takes by default, are the admin's. Whoever has ca-key.pem can issue
    further certificates: keep it away from the servers.
    """
    from joblet.common import pki

    bundle = pki.write_bundle(directory, hosts=[*LOCAL_HOSTS, *hosts], node_id=node_id)
    names = [pki.GATEWAY, pki.NODE, pki.ADMIN_CLIENT, pki.VIEWER_CLIENT, pki.CLIENT]
    files = {name: [str(bundle.cert(name)), str(bundle.key(name))] for name in names}
    _report(f"Certificates created in {directory}:", {"ca": [str(bundle.ca_cert), str(bundle.ca_key)], **files})


@certs.command(
    cls=Verb,
    options_metavar="[flags]",
    epilog=examples(
        "rnx certs issue --role viewer --name alice", "rnx certs issue --dir certs --role admin --name bob --days 30"
    ),
)
@DIRECTORY
@click.option("--role", type=click.Choice(["admin", "viewer"]), required=True, help="What its owner may do")
@click.option("--name", required=True, metavar="CN", help="Name of its owner")
@click.option(
    "--days", type=click.IntRange(1, LONGEST_DAYS), default=365, show_default=True, help="How long it is valid"
)
@click.option("--force", is_flag=True, help="Replace files that are already there")
def issue(directory: Path, role: str, name: str, days: int, force: bool) -> None:
    """Issue a client certificate, signed by the CA in DIR: NAME-client-cert.pem and NAME-client-key.pem."""
    from joblet.common import pki
    from rnx.errors import BadUsage

    bundle = pki.Bundle(directory)
    try:
        ca = pki.read_pair(bundle.ca_cert, bundle.ca_key)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadUsage(f"cannot read the CA: {error.filename}: {reason}", hint="rnx certs init creates one") from error
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".") + "-client"
    cert, key = bundle.cert(stem), bundle.key(stem)
    taken = [str(file) for file in (cert, key) if file.exists()]
    if taken and not force:
        raise BadUsage(f"already there: {', '.join(taken)}", hint="--force replaces them")
    pki.write_pair(pki.issue(ca, name, role, days=days), cert, key)
    _report(f"Certificate of {name} ({role}) created:", {stem: [str(cert), str(key)]})


@certs.command(
    cls=Verb,
    options_metavar="[flags]",
    epilog=examples("rnx certs show certs/client-cert.pem"),
)
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Show what the certificate in FILE says."""
    from joblet.common import pki
    from joblet.common.errors import InvalidArgument
    from rnx.errors import BadUsage
    from rnx.output import as_json, printable

    try:
        found = pki.describe(file.read_bytes())
    except OSError as error:
        raise BadUsage(f"{file}: {(error.strerror or str(error)).lower()}") from error
    except InvalidArgument as error:
        raise BadUsage(f"{file}: {error.message}") from error
    identity = found.identity
    said = {
        "name": identity.common_name,
        "role": identity.ou,
        "organization": identity.organization,
        "issuer": found.issuer,
        "serial": f"{identity.serial:x}",
        "validFrom": _time(found.not_before),
        "validUntil": _time(identity.not_after),
        "daysLeft": (identity.not_after - datetime.now(UTC)).days,
        "hosts": list(found.hosts),
        "ca": found.is_ca,
        "key": found.key_type,
        "sha256": found.fingerprint_sha256,
    }
    if flags().json:
        click.echo(as_json(said))
        return
    for heading, value in said.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        click.echo(f"{heading[0].upper()}{heading[1:]}: {printable(text)}".rstrip())


def _report(title: str, files: dict[str, list[str]]) -> None:
    if flags().json:
        from json import dumps

        click.echo(dumps({name: {"cert": cert, "key": key} for name, (cert, key) in files.items()}, indent=2))
        return
    click.echo(title)
    for cert, key in files.values():
        click.echo(f"  {cert}  {key}")


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
