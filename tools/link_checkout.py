"""Makes a checkout runnable from its own .venv: source roots on the path, console scripts in .venv/bin.

Run by tools/setup with the interpreter of that .venv; needs nothing but the standard library. Files are replaced
only when their content differs, so that running services never see one half written.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

SOURCE_ROOTS = (
    "libs/common",
    "services/gateway",
    "services/executor",
    "services/logstore",
    "services/runtime",
    "cli/rnx",
    "proto",
)
COMMANDS = {
    "rnx": "rnx.main",
    "joblet-gateway": "joblet.gateway.__main__",
    "joblet-executor": "joblet.executor.__main__",
    "joblet-logstore": "joblet.logstore.__main__",
    "joblet-runtime": "joblet.runtime.__main__",
}
# -I: neither PYTHONPATH, nor the user's site-packages, nor the script's folder decide what runs.
SCRIPT = """#!{interpreter} -I
import sys
from {module} import main
sys.exit(main())
"""


def replace(path: Path, text: str, mode: int) -> None:
    """Writes `text` to `path` by rename, unless it is there already."""
    if path.exists() and path.read_text() == text and path.stat().st_mode & 0o777 == mode:
        return
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.replace(path)


def main(root: Path) -> None:
    packages = Path(sysconfig.get_path("purelib"))
    scripts = Path(sysconfig.get_path("scripts"))
    replace(packages / "joblet.pth", "".join(f"{root / source}\n" for source in SOURCE_ROOTS), 0o644)
    for name, module in COMMANDS.items():
        replace(scripts / name, SCRIPT.format(interpreter=scripts / "python", module=module), 0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
