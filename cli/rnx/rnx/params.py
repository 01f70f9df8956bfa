"""Values of flags: parsing and refusing them before anything is sent. Pure."""

from collections.abc import Iterable

import click

# grpc.maxRecvMsgSize of the specification: what one request may hold. A server may be configured to take more; a file
# that needs it does not belong into a message.
MAX_REQUEST_BYTES = 524_288
INLINE_BYTES = 256 * 1024  # of it, what files may have at most that travel inside the request
UPLOADS_BYTES = 16 * 1024  # of it, what uploads take whose bytes are sent before
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
MAX_PRIORITY = 1000


class Limit(click.ParamType[int, str]):
    """A whole number that fits into the message; 0 is the configured default."""

    name = "int"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> int:
        if not (value.isascii() and value.isdigit() and int(value) <= INT32_MAX):
            self.fail(f'expected a whole number from 0 to {INT32_MAX}, got "{value}"', parameter, context)
        return int(value)


class Count(Limit):
    """How many, at least one."""

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> int:
        number = super().convert(value, parameter, context)
        if not number:
            self.fail(f"expected a whole number from 1 to {INT32_MAX}, got 0", parameter, context)
        return number


class Lines(click.ParamType[int, str]):
    """How many lines."""

    name = "int"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> int:
        if not (value.isascii() and value.isdigit() and int(value) <= INT64_MAX):
            self.fail(f'expected a number of lines, 0 or more, got "{value}"', parameter, context)
        return int(value)


class Moment(click.ParamType[int, str]):
    """A time, in nanoseconds since the epoch."""

    name = "time"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> int:
        from datetime import datetime

        from joblet.common.errors import InvalidArgument
        from rnx import moment

        try:
            return moment.parse(value, datetime.now().astimezone())
        except InvalidArgument as error:
            self.fail(error.message, parameter, context)


class Schedule(click.ParamType[str, str]):
    """A time to come, as an instant in RFC 3339."""

    name = "time"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        from datetime import datetime

        from joblet.common.errors import InvalidArgument
        from rnx import moment

        try:
            return moment.scheduled(value, datetime.now().astimezone())
        except (InvalidArgument, OverflowError) as error:
            self.fail(str(error), parameter, context)


class Codes(click.ParamType[tuple[int, ...], str]):
    """Exit codes, "2,64-113" as one list."""

    name = "codes"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        codes: set[int] = set()
        for part in value.split(","):
            first, _, last = part.strip().partition("-")
            if not all(end.isascii() and end.isdigit() and 1 <= int(end) <= 255 for end in (first, last or first)):
                self.fail(f'expected exit codes from 1 to 255, such as "2,64-113", got "{value}"', parameter, context)
            codes.update(range(int(first), int(last or first) + 1))
        return tuple(sorted(codes))


class Priority(click.ParamType[int, str]):
    """A whole number, negative or not, in the range that the gateway takes."""

    name = "int"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> int:
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and int(digits) <= MAX_PRIORITY):
            self.fail(
                f'expected a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}, got "{value}"', parameter, context
            )
        return int(value)


class Duration(click.ParamType[int, str]):
    """Whole seconds, written as "30s", "5m" or "1h30m"."""

    name = "duration"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> int:
        from joblet.common.errors import InvalidArgument
        from joblet.common.units import parse_duration

        try:
            seconds = parse_duration(value)
        except InvalidArgument as error:
            self.fail(error.message, parameter, context)
        if seconds != int(seconds) or not 0 < seconds <= INT32_MAX:
            self.fail(f'expected whole seconds, from 1s to {INT32_MAX}s, got "{value}"', parameter, context)
        return int(seconds)


class CpuList(click.ParamType[str, str]):
    """CPUs as the kernel writes them: "0-2,5"."""

    name = "cpus"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        from joblet.common.errors import InvalidArgument
        from joblet.common.units import format_cpu_list, parse_cpu_list

        try:
            return format_cpu_list(parse_cpu_list(value))
        except InvalidArgument as error:
            self.fail(error.message, parameter, context)


def labels(assignments: Iterable[str], flag: str = "--label") -> dict[str, str]:
    """{"team": "a"} for "team=a". Raises BadUsage; two values for one name are no answer to which one counts."""
    from rnx.errors import BadUsage

    result: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise BadUsage(f'{flag}: expected NAME=VALUE, got "{assignment}"')
        if result.get(name, value) != value:
            raise BadUsage(f"{flag} {name}: given twice with different values")
        result[name] = value
    return result


def too_large(what: str) -> Exception:
    from rnx.errors import BadUsage

    return BadUsage(
        f"{what}: too large to travel with the job",
        hint=f"command, arguments and environment together may have {MAX_REQUEST_BYTES} bytes (grpc.maxRecvMsgSize)",
    )


def checked_text(what: str, text: str) -> str:
    """`text` if it can be sent: messages carry UTF-8, and an argument of a process ends at NUL."""
    from rnx.errors import BadUsage

    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadUsage(f"{what} is not UTF-8: {text!r}") from error
    return text


def checked_secret(name: str, value: str) -> None:
    """As `checked_text`, without the text."""
    from rnx.errors import BadUsage

    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadUsage(f"the value of {name} is not UTF-8") from None
