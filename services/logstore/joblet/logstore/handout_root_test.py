"""The control socket refuses a process of another user, even where the mode of the socket would let it in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from joblet.logstore.handout_test import connected, raw, serving

pytestmark = pytest.mark.root

NOBODY = 65534
CLIENT = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setgroups([]); os.setresgid(*[int(sys.argv[2])] * 3); os.setresuid(*[int(sys.argv[2])] * 3)
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect("control.sock")
data, ancillary, _, _ = control.recvmsg(4096, 1024)
assert not ancillary
sys.stdout.write(data.decode())
"""


def test_another_uid_is_refused(tmp_path: Path) -> None:
    def client(path: Path) -> None:
        path.parent.chmod(0o755)
        path.chmod(0o666)
        answer = subprocess.run(
            [sys.executable, "-c", CLIENT, str(path.parent), str(NOBODY)], capture_output=True, timeout=120, check=True
        )
        assert json.loads(answer.stdout) == {"ok": False, "error": f"uid {NOBODY} may not use this socket"}
        job_id = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
        with connected(path) as control:
            assert raw(control, json.dumps({"op": "size", "job_id": job_id}).encode())[0]["error"] == (
                f"job not found: {job_id}"
            )

    serving(tmp_path, client)
