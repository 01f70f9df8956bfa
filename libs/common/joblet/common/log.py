"""Log lines of every service, in the specification's form or as JSON, on stderr.

    [2024-01-15T10:30:00Z] [INFO] job started successfully | jobId=f47ac10b pid=12345 command="python3 script.py"

A message is a fixed text; what varies goes into fields. Values with anything but plain characters are quoted as JSON
strings, so a line is always one line. Libraries that use `logging` come out the same way, from WARN up. Secrets are
never passed to this module.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar

from joblet.common.config import LoggingConfig
from joblet.common.units import NS_PER_SECOND, rfc3339

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Set while a request is handled; lines then carry requestId=..."""

_LEVELS = {"DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARN": logging.WARNING, "ERROR": logging.ERROR}
_NAMES = {logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN", logging.ERROR: "ERROR"}
_PLAIN = re.compile(r"[^\s\"=|\\]+")
_ROOT = "joblet"
_FIELDS = "joblet_fields"


class Logger:
    """Writes a message and its fields: `log.info("job started successfully", jobId=job_id, pid=pid)`."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, /, **fields: object) -> None:
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        self._write(logging.INFO, message, fields)

    def warn(self, message: str, /, **fields: object) -> None:
        self._write(logging.WARNING, message, fields)

    warning = warn

    def error(self, message: str, /, **fields: object) -> None:
        self._write(logging.ERROR, message, fields)

    def exception(self, message: str, /, **fields: object) -> None:
        """An error with the traceback of the exception being handled."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._logger.error("%s", message, extra={_FIELDS: fields}, exc_info=True)

    def _write(self, level: int, message: str, fields: Mapping[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", message, extra={_FIELDS: fields})


def get_logger(name: str) -> Logger:
    """`name` is a module's `__name__`; it shows in JSON lines."""
    return Logger(logging.getLogger(name if name.startswith(_ROOT) else f"{_ROOT}.{name}"))


def setup(service: str, config: LoggingConfig) -> None:
    """Sends everything to stderr in the configured form; called once, by main."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if config.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(_LEVELS[config.level])
    logging.captureWarnings(True)
    # What no line shows need not be found out for each: two fifths of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # so that nobody looks for the caller's line (docs.python.org/3/howto/logging.html)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"[{_time(record)}] [{_level(record)}] {_one_line(record.getMessage())}"
        fields = _fields(record)
        if fields:
            line += " | " + " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": _level(record),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        # A field must not replace the line's own keys.
        entry |= {f"field_{key}" if key in entry else key: value for key, value in _fields(record).items()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = dict(getattr(record, _FIELDS, {}))
    current = request_id.get()
    if current:
        fields.setdefault("requestId", current)
    return fields


def _time(record: logging.LogRecord) -> str:
    return rfc3339(int(record.created) * NS_PER_SECOND)


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, record.levelname)


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else f'"{_escaped(text)}"'


def _one_line(message: str) -> str:
    return message if message.isprintable() else _escaped(message)


def _escaped(text: str) -> str:
    """As inside a JSON string; with control characters, which could drive a terminal, all but ASCII is escaped."""
    return json.dumps(text, ensure_ascii=not text.isprintable())[1:-1]
