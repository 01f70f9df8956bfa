"""Points in time as people write them, for --since, --until and --schedule. Values in, values out."""

from datetime import UTC, datetime, time, timedelta

from joblet.common.errors import InvalidArgument
from joblet.common.units import NS_PER_SECOND, parse_duration

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse(text: str, now: datetime) -> int:
    """Nanoseconds since the epoch for "10m" (so long before `now`), "14:30" (today), a date, or a date and time.

    A date and time may carry a zone, "2024-01-15T10:30:00Z"; without one they are in the zone of `now`. Raises
    InvalidArgument.
    """
    ago = _ago(text, now)
    return ago if ago is not None else nanoseconds(_date(text, now))


def scheduled(text: str, now: datetime) -> str:
    """The instant, in RFC 3339, that a job is to start at: "30s", "1h30m" (so long after `now`), a date (its first
    moment), or a date and time, with or without seconds and zone. Without one it is the time that clocks here will show
    then. Raises InvalidArgument."""
    try:
        moment = now + timedelta(seconds=parse_duration(text))
    except InvalidArgument:
        moment = _planned(text)
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _planned(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip().upper())
    except ValueError:
        example = '"30s", "1h30m", "2024-01-15 10:30" or "2024-01-15T10:30:00Z"'
        raise InvalidArgument(f'expected a time such as {example}, got "{text}"') from None
    # A naive one: by the rules of this machine's zone for that very day, which may be another than today's.
    return moment.astimezone()


def nanoseconds(moment: datetime) -> int:
    """Since the epoch, exact to the microsecond that datetime knows."""
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * NS_PER_SECOND + passed.microseconds * 1000


def _ago(text: str, now: datetime) -> int | None:
    """None for what is no duration."""
    try:
        seconds = parse_duration(text)
    except InvalidArgument:
        return None
    return nanoseconds(now) - round(seconds * NS_PER_SECOND)


def _date(text: str, now: datetime) -> datetime:
    written = text.strip().upper()
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        try:
            moment = datetime.combine(now.date(), _time_of_day(written))
        except ValueError:
            example = '"10m" (ago), "14:30", "2024-01-15 10:30" or "2024-01-15T10:30:00Z"'
            raise InvalidArgument(f'expected a time such as {example}, got "{text}"') from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=now.tzinfo)


def _time_of_day(text: str) -> time:
    """Not "10" alone, which may be meant as seconds or minutes."""
    if ":" not in text:
        raise ValueError(text)
    return time.fromisoformat(text)
