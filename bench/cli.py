"""How long rnx takes to start, beside the least that such a program can take.

Run: `make bench-cli` or `python bench/cli.py [--rounds N]`. Prints Markdown.

 * rnx --help against a click program of one command (aim: at most 1.5 times)
 * rnx job list against `python -c "import grpc"` (aim: at most 2 times)
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from local_system import CLEAN_ENVIRONMENT, RNX, local_system
from measure import interleaved, machine, table

MINIMAL = """\
import click

@click.command()
def main() -> None:
    "Nothing."

main()
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(f"## bench/cli\n\n{machine()}\n")
    with tempfile.TemporaryDirectory(prefix="joblet-bench-") as name:
        minimal = Path(name) / "minimal.py"
        minimal.write_text(MINIMAL)
        work = {
            "minimal click": lambda: command(sys.executable, minimal, "--help"),
            "rnx --help": lambda: command(RNX, "--help"),
        }
        print(table("help", interleaved(work, options.rounds), "minimal click"), "\n")
        with local_system(Path(name) / "joblet") as system:
            work = {
                "import grpc": lambda: command(sys.executable, "-c", "import grpc"),
                "rnx job list": lambda: command(RNX, "--config", system.directory / "rnx-config.yml", "job", "list"),
            }
            print(table("one call", interleaved(work, options.rounds), "import grpc"))


def command(*arguments: str | Path) -> None:
    """Run a program that must succeed, its output thrown away."""
    subprocess.run(arguments, env=CLEAN_ENVIRONMENT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
