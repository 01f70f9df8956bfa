"""Click, as rnx uses it: verbs and nouns that all take the global flags, and groups that load a verb when it is named.

`rnx --help` must cost little more than click itself, so a group knows its commands as (module, attribute, one line of
help) and imports the module only to run it or to show its own help. The global flags may stand before the verb and
after it; the last one given wins. What was given ends in `Flags`; where values come from otherwise is `settings`.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

_META = "rnx.flags"
_WAITING = "rnx.waiting"
F = TypeVar("F", bound=Callable[..., Any])
WAITING_FLAGS = ("--wait", "--follow", "-f")


@dataclass(frozen=True, slots=True)
class Flags:
    """The global flags of this command line; None for one that was not given."""

    server: str | None = None
    cert: str | None = None
    key: str | None = None
    ca: str | None = None
    config: str | None = None
    node: str | None = None
    json: bool = False


def flags() -> Flags:
    """The global flags of the command that is running."""
    return flags_of(click.get_current_context())


def flags_of(context: click.Context) -> Flags:
    return Flags(**context.meta.get(_META, {}))


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """Keeps a flag that was really typed; the variables shown in the help are read by `settings`, after all flags."""
    name = str(parameter.name)
    if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
        context.meta.setdefault(_META, {})[name] = value


def passes_job_code(context: click.Context) -> None:
    """From here on rnx's exit code is to be a job's: its own failures get the one that is kept for them."""
    context.meta[_WAITING] = True


def is_waiting(context: click.Context | None) -> bool:
    return context is not None and bool(context.meta.get(_WAITING))


def waiting_flag(*declarations: str, help: str) -> Callable[[F], F]:
    """A flag that makes the job's exit code rnx's. Eager, so that this is known when another flag is refused."""

    def remember(context: click.Context, _parameter: click.Parameter, given: bool) -> bool:
        if given:
            passes_job_code(context)
        return given

    return click.option(*declarations, is_flag=True, is_eager=True, callback=remember, help=help)


def _global(*declarations: str, **attributes: Any) -> click.Option:
    # Eager, so that --json is known when another flag of the same verb is refused.
    return click.Option(declarations, expose_value=False, is_eager=True, callback=_remember, **attributes)


def _global_options() -> list[click.Option]:
    shown: dict[str, Any] = {"show_envvar": True}
    return [
        _global("--server", envvar="JOBLET_SERVER", metavar="HOST:PORT", **shown,
                help="Server address (default \"localhost:50051\")"),
        _global("--cert", envvar="JOBLET_CERT_PATH", metavar="FILE", **shown,
                help='Client certificate path (default "certs/client-cert.pem")'),
        _global("--key", envvar="JOBLET_KEY_PATH", metavar="FILE", **shown,
                help='Client private key path (default "certs/client-key.pem")'),
        _global("--ca", envvar="JOBLET_CA_PATH", metavar="FILE", **shown,
                help='CA certificate path (default "certs/ca-cert.pem")'),
        _global("--config", metavar="FILE",
                help="Configuration with one or more nodes (default ./rnx-config.yml, then ~/.rnx/rnx-config.yml)"),
        _global("--node", metavar="NAME", help='Which node of the configuration (default "default")'),
        _global("--json", is_flag=True, help="Print JSON, errors too"),
    ]  # fmt: skip


class _WithGlobalFlags(click.Command):
    """Adds the global flags and lists them in a section of their own."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.global_options = _global_options()
        self.params.extend(self.global_options)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        options = [item for item in self.get_params(context) if isinstance(item, click.Option)]
        own = [item for item in options if item not in self.global_options]
        for title, items in (("Flags", own), ("Global flags", self.global_options)):
            rows = [row for item in items if (row := item.get_help_record(context))]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def examples(*lines: str) -> str:
    """The end of a command's help, not wrapped."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class Verb(_WithGlobalFlags):
    """A command that does something."""


class WaitingVerb(Verb):
    """A command whose exit code is that of a job."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        passes_job_code(context)
        return super().parse_args(context, args)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command is found, and its line in the list of commands."""

    module: str
    attribute: str
    help: str


class Noun(_WithGlobalFlags, click.Group):
    """A group of commands; those in `entries` are imported when they are named."""

    def __init__(self, *arguments: Any, entries: Mapping[str, Entry] | None = None, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.entries = dict(entries or {})

    def list_commands(self, context: click.Context) -> list[str]:
        return [*self.entries, *self.commands]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        entry = self.entries.get(name)
        if entry is None:
            return self.commands.get(name)
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(context, formatter)
        _WithGlobalFlags.format_options(self, context, formatter)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, entry.help) for name, entry in self.entries.items()]
        shown = {name: command for name, command in self.commands.items() if not _is_hidden(command)}
        rows += [(name, command.get_short_help_str(limit=90)) for name, command in shown.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.NoSuchCommand as error:
            known = ", ".join(name for name in self.list_commands(context) if not _is_hidden(self.commands.get(name)))
            raise click.UsageError(f'unknown command "{args[0]}" (there is {known})', context) from error


def _is_hidden(command: click.Command | None) -> bool:
    return command is not None and command.hidden


def usage_hint(context: click.Context | None) -> str | None:
    """Where the help of the command that was used wrongly is found."""
    return f"see {context.command_path} --help" if context is not None else None


def wants(arguments: Sequence[str], *flags: str) -> bool:
    """Whether one of the flags is among the arguments, for the case that they could not be parsed as a whole."""
    before_separator = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return not set(flags).isdisjoint(before_separator)
