"""`rnx completion`: the script that teaches a shell to complete rnx's verbs, flags and job ids."""

import click

from rnx.cli import Verb

SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    cls=Verb,
    options_metavar="[flags]",
    epilog="""\b
Examples:
  eval "$(rnx completion bash)"       # now; in ~/.bashrc for always
  eval "$(rnx completion zsh)"        # ~/.zshrc
  rnx completion fish > ~/.config/fish/completions/rnx.fish""",
)
@click.argument("shell", type=click.Choice(SHELLS), metavar="|".join(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell: verbs, flags, their values, and ids of jobs, asked of the server."""
    from click.shell_completion import get_completion_class

    from rnx.main import COMPLETION_VARIABLE, app

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(app, {}, "rnx", COMPLETION_VARIABLE).source())
