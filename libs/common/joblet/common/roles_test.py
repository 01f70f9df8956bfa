from datetime import UTC, datetime

import pytest

from joblet.common.roles import Identity, Role


@pytest.mark.parametrize(
    ("ou", "role"),
    [
        ("admin", Role.ADMIN),
        ("viewer", Role.VIEWER),
        ("gateway", Role.GATEWAY),
        ("node", Role.NODE),
        ("Admin", None),
        ("admin ", None),
        ("ADMIN", None),
        ("admin,viewer", None),
        ("", None),
    ],
)
def test_only_the_exact_unit_is_a_role(ou: str, role: Role | None) -> None:
    assert Identity("x", ou, "joblet", datetime.now(UTC), 1).role is role
