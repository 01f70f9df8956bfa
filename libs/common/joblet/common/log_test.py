import json
import logging
import warnings
from collections.abc import Callable, Iterator

import pytest

from joblet.common import log
from joblet.common.config import LoggingConfig

Stderr = Callable[[], str]


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Stderr]:
    """What is logged; the logging of the test run comes back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("joblet")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    try:
        yield lambda: capsys.readouterr().err
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        logging.captureWarnings(False)


def lines(stderr: Stderr) -> list[str]:
    """Without the time, which is checked once."""
    return [line[line.index("] ") + 2 :] if line.startswith("[2") else line for line in stderr().splitlines()]


def test_the_line_of_the_specification(stderr: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    log.setup("executor", LoggingConfig())
    monkeypatch.setattr("time.time", lambda: 1705314600.5)
    log.get_logger("joblet.executor.launch").info(
        "job started successfully",
        jobId="f47ac10b-58cc-4372-a567-0e02b2c3d479",
        pid=12345,
        command="python3 script.py",
        duration="50ms",
    )
    assert stderr() == (
        "[2024-01-15T10:30:00Z] [INFO] job started successfully | jobId=f47ac10b-58cc-4372-a567-0e02b2c3d479"
        ' pid=12345 command="python3 script.py" duration=50ms\n'
    )


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("plain", "plain"),
        ("/a/b:c@d", "/a/b:c@d"),
        ("", '""'),
        ("a b", '"a b"'),
        ('a"b', '"a\\"b"'),
        ("a=b", '"a=b"'),
        ("a\nb\x1b[0m", '"a\\nb\\u001b[0m"'),
        ("a|b", '"a|b"'),
        ("ü\x9b2J", '"\\u00fc\\u009b2J"'),
        ("größer als", '"größer als"'),
        ("grün", "grün"),
        (None, "None"),
        (True, "True"),
    ],
)
def test_values_are_quoted_when_they_could_be_misread(stderr: Stderr, value: object, printed: str) -> None:
    log.setup("executor", LoggingConfig())
    log.get_logger("x").warn("text", key=value)
    assert lines(stderr) == [f"[WARN] text | key={printed}"]


def test_a_message_stays_on_one_line(stderr: Stderr) -> None:
    log.setup("executor", LoggingConfig())
    log.get_logger("x").error("first\nsecond %s {}")
    assert lines(stderr) == ["[ERROR] first\\nsecond %s {}"]


def test_levels(stderr: Stderr) -> None:
    log.setup("executor", LoggingConfig(level="WARN"))
    logger = log.get_logger("x")
    logger.debug("no")
    logger.info("no")
    logger.warning("yes")
    assert lines(stderr) == ["[WARN] yes"]


def test_libraries_come_out_in_the_same_form_from_warn_up(stderr: Stderr) -> None:
    log.setup("executor", LoggingConfig(level="DEBUG"))
    logging.getLogger("sqlalchemy").info("no")
    logging.getLogger("sqlalchemy").critical("pool of %d", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old", stacklevel=1)
    first, second, *_ = lines(stderr)
    assert first == "[CRITICAL] pool of 3"
    assert second.startswith("[WARN] ")
    assert "UserWarning: old" in second


def test_the_request_id_is_added(stderr: Stderr) -> None:
    log.setup("executor", LoggingConfig())
    token = log.request_id.set("r-1")
    log.get_logger("x").info("with", a=1)
    log.get_logger("x").info("own", requestId="mine")
    log.request_id.reset(token)
    log.get_logger("x").info("without")
    assert lines(stderr) == ["[INFO] with | a=1 requestId=r-1", "[INFO] own | requestId=mine", "[INFO] without"]


def test_json_lines(stderr: Stderr) -> None:
    log.setup("gateway", LoggingConfig(format="json"))
    log.get_logger("joblet.gateway.jobs").info("job\nqueued", jobId="x", message="field", count=3)
    try:
        raise KeyError("gone")
    except KeyError:
        log.get_logger("x").exception("broken")
    first, second = (json.loads(line) for line in stderr().splitlines())
    assert {key: value for key, value in first.items() if key != "time"} == {
        "level": "INFO",
        "service": "gateway",
        "logger": "joblet.gateway.jobs",
        "message": "job\nqueued",
        "jobId": "x",
        "field_message": "field",
        "count": 3,
    }
    assert "KeyError: 'gone'" in second["traceback"]


def test_exceptions_bring_their_traceback(stderr: Stderr) -> None:
    log.setup("gateway", LoggingConfig())
    try:
        raise ValueError("wrong")
    except ValueError:
        log.get_logger("x").exception("rpc failed", method="/a/b")
    head, *traceback = lines(stderr)
    assert head == "[ERROR] rpc failed | method=/a/b"
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1] == "ValueError: wrong"
