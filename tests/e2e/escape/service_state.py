"""Tries: reads the services' state: journal, store, log files of other jobs
Must: ENOENT EACCES
See: docs/architecture.md
"""

import sys
from pathlib import Path

from escape.attempt import first_readable

first_readable(Path(start + path) for start in ("", "/mnt") for path in sys.argv[1:])
