"""The exit record against its golden file, cut and damaged at every byte."""

import signal
from pathlib import Path

import pytest

from joblet.executor import exitrecord
from joblet.executor.exitrecord import DamagedRecord, EndReason, ExitRecord, RecordFlag
from joblet.executor.jobspec import Stage

GOLDEN = Path(__file__).parent / "testdata" / "exitrecord-v1.golden"
RECORD = ExitRecord(
    exit_code=137,
    signal=signal.SIGKILL,
    reason=EndReason.OOM,
    stage=Stage.UPLOAD,
    error=28,
    flags=RecordFlag.OOM_EVENT | RecordFlag.FORCED,
    start_ns=1_705_314_600_000_000_001,
    end_ns=1_705_314_660_000_000_002,
    user_us=3,
    system_us=4,
    maxrss_bytes=5 << 20,
    oom_kills=6,
    voluntary_switches=7,
    involuntary_switches=8,
    detail="src/ä.py",
)


def test_golden() -> None:
    assert ExitRecord.decode(GOLDEN.read_bytes()) == RECORD
    assert RECORD.encode() == GOLDEN.read_bytes()
    assert not RECORD.started


def test_cut_at_every_byte() -> None:
    data = GOLDEN.read_bytes()
    for length in range(len(data)):
        with pytest.raises(DamagedRecord):
            ExitRecord.decode(data[:length])
    with pytest.raises(DamagedRecord):
        ExitRecord.decode(data + b"\0")


def test_damaged_at_every_byte() -> None:
    data = GOLDEN.read_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(DamagedRecord):
            ExitRecord.decode(bytes(damaged))


def test_reading_from_a_state_directory(tmp_path: Path) -> None:
    assert exitrecord.read(tmp_path) is None
    (tmp_path / exitrecord.TEMPORARY_NAME).write_bytes(bytes(exitrecord.SIZE))
    assert exitrecord.read(tmp_path) is None
    (tmp_path / exitrecord.NAME).write_bytes(RECORD.encode())
    assert exitrecord.read(tmp_path) == RECORD
    (tmp_path / exitrecord.NAME).write_bytes(bytes(exitrecord.SIZE))
    with pytest.raises(DamagedRecord):
        exitrecord.read(tmp_path)
