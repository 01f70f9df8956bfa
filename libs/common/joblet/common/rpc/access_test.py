from datetime import timedelta
from pathlib import Path

import pytest

from joblet.common.errors import Internal, PermissionDenied, StartError, Unauthenticated
from joblet.common.roles import Identity, Role
from joblet.common.rpc import access, current_identity
from joblet.common.rpc.echo_fixture import ACCESS, DESCRIPTOR, Authority

ONE, MANY = "/jbtest.Echo/One", "/jbtest.Echo/Many"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def identity(authority: Authority, ou: str) -> Identity:
    return access.authenticate({"x509_pem_cert": [authority.files(ou).cert.read_bytes()]})


def test_identity_is_the_subject_of_the_certificate(authority: Authority) -> None:
    viewer = identity(authority, Role.VIEWER)
    assert (viewer.common_name, viewer.ou, viewer.organization, viewer.role) == (
        "jbtest",
        "viewer",
        "joblet",
        Role.VIEWER,
    )


@pytest.mark.parametrize("context", [{}, {"x509_pem_cert": []}, {"transport_security_type": [b"ssl"]}])
def test_a_context_without_certificate_is_unauthenticated(context: dict[str, list[bytes]]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        access.authenticate(context)
    assert str(caught.value) == "failed to extract client role: no TLS information found"


def test_a_certificate_that_has_ended_is_unauthenticated(authority: Authority) -> None:
    files = authority.files(Role.ADMIN, lifetime=timedelta(seconds=-1))
    with pytest.raises(Unauthenticated) as caught:
        access.authenticate({"x509_pem_cert": [files.cert.read_bytes()]})
    assert str(caught.value) == "certificate verify failed: certificate has expired"


def test_the_row_decides(authority: Authority) -> None:
    access.authorize(ONE, identity(authority, Role.ADMIN), ACCESS)
    access.authorize(MANY, identity(authority, Role.VIEWER), ACCESS)
    with pytest.raises(PermissionDenied) as caught:
        access.authorize(ONE, identity(authority, Role.VIEWER), ACCESS)
    assert str(caught.value) == "role viewer is not allowed to perform operation one"


def test_an_unknown_unit_and_an_unknown_method_are_denied(authority: Authority) -> None:
    with pytest.raises(PermissionDenied, match="^role auditor is not allowed to perform operation many$"):
        access.authorize(MANY, identity(authority, "auditor"), ACCESS)
    with pytest.raises(PermissionDenied, match="^role admin is not allowed to perform operation /x.Y/Z$"):
        access.authorize("/x.Y/Z", identity(authority, Role.ADMIN), ACCESS)


def test_a_certificate_without_unit_has_no_role(authority: Authority) -> None:
    with pytest.raises(Unauthenticated, match="no organizational unit"):
        access.authorize(MANY, identity(authority, ""), ACCESS)


def test_health_is_open_to_every_certificate(authority: Authority) -> None:
    access.authorize("/grpc.health.v1.Health/Check", identity(authority, "auditor"), {})


def test_every_method_needs_a_row() -> None:
    access.check_complete(ACCESS, [DESCRIPTOR])
    with pytest.raises(StartError, match="no row for /jbtest.Echo/Many, /jbtest.Echo/Chat$"):
        access.check_complete({ONE: ACCESS[ONE], "/jbtest.Echo/Collect": ACCESS[ONE]}, [DESCRIPTOR])


def test_there_is_no_identity_outside_of_a_call() -> None:
    with pytest.raises(Internal):
        current_identity()
