"""The `rnx` command: its verbs, and the one place where a failure becomes a text on stderr and an exit code."""

import gc
import io
import os
import sys
from collections.abc import Sequence

import click

from rnx.cli import WAITING_FLAGS, Entry, Noun, flags_of, is_waiting, usage_hint, wants
from rnx.commands import job

ENTRIES = {
    "job": Entry("rnx.commands.job", "job", "Jobs: everything about them; each verb works without the word job, too"),
    **job.VERBS,
    "local": Entry("rnx.commands.local", "local", "A Joblet of its own on this machine: up, status, down"),
    "doctor": Entry("rnx.commands.doctor", "doctor", "Check this machine as a node: each gap, its cause and its cure"),
    "completion": Entry("rnx.commands.completion", "completion", "Completion for bash, zsh or fish"),
    "certs": Entry("rnx.commands.certs", "certs", "Certificates: init, issue, show"),
    "version": Entry("rnx.commands.version", "version", "Print the version of rnx"),
}
EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130  # as in rnx.errors, which --help does without
HELP_COLUMNS = 110  # the most that help uses of a wide terminal
COMPLETION_VARIABLE = "_RNX_COMPLETE"  # set by click's completion scripts
# Objects made before Python looks for garbage among them. By default 700, and imports make some 30,000 that stay.
GARBAGE_THRESHOLD = 100_000


class _Version(click.Option):
    """--version; reads the number only when asked."""

    def __init__(self) -> None:
        super().__init__(
            ["--version"], is_flag=True, expose_value=False, callback=_print_version, help="Print the version and exit"
        )


def _print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from joblet.common.version import VERSION

        click.echo(f"rnx {VERSION}")
        context.exit(0)


_EPILOG = """\b
Exit codes:
  0    done
  1    refused or failed: the text says why
  2    wrong usage or configuration; nothing was sent
  3    no connection: server, network or certificates
  4    not found
  124, 125, 143  see rnx job wait --help
  130  interrupted by Ctrl+C

\b
Each value is taken from: flag, environment variable, --config FILE,
./rnx-config.yml, ~/.rnx/rnx-config.yml, default."""

app = Noun(
    "rnx",
    entries=ENTRIES,
    params=[_Version()],
    epilog=_EPILOG,
    help="Run commands on Linux machines: isolated, limited, streamed.",
)


def main() -> None:
    """The entry point of the console script and of the PEX."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        if sys.stderr.isatty():
            click.echo(err=True)  # the terminal shows ^C: the prompt comes on the next line
    gc.freeze()  # else Python looks through all of it for garbage as it ends
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; the exit code. Nothing is raised for a failure that has a name."""
    _make_streams_safe()
    if COMPLETION_VARIABLE in os.environ:
        app.main(args=list(arguments), prog_name="rnx")
    try:
        with app.make_context("rnx", list(arguments), max_content_width=HELP_COLUMNS) as context:
            return _invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        return _report_usage(error, arguments)
    except BrokenPipeError:
        _discard_output()  # the reader left (`rnx job log ID | head`): its right, and no error
        return 0
    except OSError as error:
        _discard_output()
        click.echo(f"Error: {error.filename or 'output'}: {(error.strerror or str(error)).lower()}", err=True)
        return EXIT_ERROR


def _make_streams_safe() -> None:
    """A closed stdout (`>&-`) loses what is printed; a terminal that cannot show a character shows its escape."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - stays open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _invoke(context: click.Context) -> int:
    from joblet.common.errors import JobletError

    try:
        app.invoke(context)
    except JobletError as error:
        from rnx.errors import as_json, as_text, exit_code

        show = as_json if flags_of(context).json else as_text
        click.echo(show(error), err=True)
        return exit_code(error, of_waiting=is_waiting(context))
    finally:
        sys.stdout.flush()
    return 0


def _report_usage(error: click.ClickException, arguments: Sequence[str]) -> int:
    """Nothing of `arguments` was carried out."""
    from rnx.errors import BadUsage, as_json, as_text, exit_code

    context = error.ctx if isinstance(error, click.UsageError) else None
    unparsed = arguments if isinstance(error, click.NoSuchOption | click.BadOptionUsage) else ()
    json = wants(unparsed, "--json") or (context is not None and flags_of(context).json)
    waiting = wants(unparsed, *WAITING_FLAGS) or is_waiting(context)
    refusal = BadUsage(error.format_message(), hint=usage_hint(context))
    click.echo((as_json if json else as_text)(refusal), err=True)
    return exit_code(refusal, of_waiting=waiting)


def _discard_output() -> None:
    """What is still buffered cannot be written: Python must not try again, and complain, when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    main()
