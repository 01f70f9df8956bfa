import uuid

import pytest

from joblet.common.ids import is_job_id, is_prefix, new_job_id

SPEC_IDS = ["f47ac10b-58cc-4372-a567-0e02b2c3d479", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"]


def test_new_ids_are_random_uuids() -> None:
    ids = {new_job_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(is_job_id(job_id) and uuid.UUID(job_id).version == 4 for job_id in ids)


@pytest.mark.parametrize("job_id", SPEC_IDS)
def test_the_specifications_ids_and_all_their_long_prefixes(job_id: str) -> None:
    assert is_job_id(job_id)
    assert [is_prefix(job_id[:length]) for length in range(37)] == [length >= 4 for length in range(37)]


@pytest.mark.parametrize(
    "text", ["", "F47AC10B-58CC-4372-A567-0E02B2C3D479", SPEC_IDS[0] + "\n", SPEC_IDS[0] + "0", "x" * 36]
)
def test_what_is_no_id(text: str) -> None:
    assert not is_job_id(text)


@pytest.mark.parametrize("text", ["f47", "-abc", "f47g", "F47A", "f47a%", "f47a\n", "../../..", "0" * 37])
def test_what_is_no_prefix(text: str) -> None:
    assert not is_prefix(text)
