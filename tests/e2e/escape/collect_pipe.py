"""Tries: leaves pipes without a writer where its outputs are, for collecting to wait at them as long as it may
Must: nothing
See: fifo(7)
"""

import os
from pathlib import Path

from escape.attempt import stopped

kept = Path("/work/kept")
kept.mkdir()
(kept / "file").write_text("mine\n")
os.mkfifo(kept / "pipe")
stopped("nothing", "unless collecting is cut off")
