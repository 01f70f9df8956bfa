"""Job ids: random UUIDs (RFC 9562, version 4) in lower case; users may type the first characters of one."""

import re
import uuid

MIN_PREFIX_LENGTH = 4

_JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_PREFIX = re.compile(rf"[0-9a-f][0-9a-f-]{{{MIN_PREFIX_LENGTH - 1},35}}", re.ASCII)


def new_job_id() -> str:
    return str(uuid.uuid4())


def is_job_id(text: str) -> bool:
    """Whether `text` is a whole id, of any UUID version (the specification's examples are version 1 and 4)."""
    return _JOB_ID.fullmatch(text) is not None


def is_prefix(text: str) -> bool:
    """Whether `text` may stand for the beginning of an id: 4 to 36 characters, hex digits and dashes."""
    return _PREFIX.fullmatch(text) is not None
