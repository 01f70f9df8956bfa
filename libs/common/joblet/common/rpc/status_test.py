import grpc
import pytest

from joblet.common import errors
from joblet.common.errors import Code, JobletError
from joblet.common.rpc import error_from_rpc, status


def travelled(error: JobletError) -> JobletError:
    """The error as the other side sees it."""
    return error_from_rpc(
        grpc.aio.AioRpcError(
            status.status_of(error),
            trailing_metadata=grpc.aio.Metadata(*status.metadata_of(error)),
            details=status.details_of(error),
        )
    )


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument("bad", field="maxCPU"),
        errors.NotFound("no"),
        errors.AlreadyExists("twice"),
        errors.FailedPrecondition("not now"),
        errors.OutOfRange("beyond"),
        errors.Unauthenticated("who"),
        errors.PermissionDenied("role viewer is not allowed to perform operation run_job"),
        errors.ResourceExhausted("full"),
        errors.DeadlineExceeded("late"),
        errors.Unavailable("away"),
        errors.Unimplemented("method RunWorkflow"),
        errors.Internal("broken"),
    ],
)
def test_every_error_keeps_class_code_and_text(error: JobletError) -> None:
    back = travelled(error)
    assert (type(back), back.code, str(back), back.hint) == (type(error), error.code, str(error), None)
    assert getattr(back, "field", None) == getattr(error, "field", None)
    assert getattr(back, "feature", None) == getattr(error, "feature", None)


def test_specific_errors_arrive_as_the_class_of_their_code() -> None:
    back = travelled(errors.JobNotFound("f47ac10b"))
    assert type(back) is errors.NotFound
    assert str(back) == "job not found: f47ac10b"


def test_a_code_without_class_keeps_the_code() -> None:
    back = travelled(JobletError("gone", code=Code.DATA_LOSS))
    assert type(back) is JobletError
    assert back.code is Code.DATA_LOSS


def test_hints_may_hold_anything() -> None:
    hint = 'try "rnx certs issue"\n100 % größer, 简体'
    encoded = dict(status.metadata_of(errors.Internal("x", hint=hint)))["joblet-hint"]
    assert encoded.isascii()
    assert encoded.isprintable()
    assert travelled(errors.Internal("x", hint=hint)).hint == hint


def test_long_texts_are_cut_to_the_limit_between_characters() -> None:
    text = status.details_of(errors.Internal("ß" * 5000))
    assert len(text.encode()) <= status.MAX_TEXT_BYTES
    assert text.endswith("ß…")
    assert status.cut("x" * status.MAX_TEXT_BYTES, status.MAX_TEXT_BYTES) == "x" * status.MAX_TEXT_BYTES


def test_undecodable_text_is_no_error_of_its_own() -> None:
    assert status.cut("file \udcff", 100) == "file ?"


def test_every_code_of_grpc_has_its_name_here() -> None:
    assert {code.name for code in grpc.StatusCode} == {code.name for code in Code}
