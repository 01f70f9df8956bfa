"""Who may call what: one table per server with a row for every method, and the check before each call."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from google.protobuf.descriptor import ServiceDescriptor

from joblet.common import pki
from joblet.common.errors import Internal, PermissionDenied, StartError, Unauthenticated
from joblet.common.roles import Identity, Role


@dataclass(frozen=True, slots=True)
class Access:
    """One row: the roles that may call a method, and the name that a refusal calls it by (`run_job`)."""

    operation: str
    roles: frozenset[Role]


AccessTable = Mapping[str, Access]
"""Rows by full method name, "/joblet.JobService/RunJob"."""

HEALTH_PREFIX = "/grpc.health.v1.Health/"
"""Health may be asked for by every certificate of ours, whatever its role."""

_identity: ContextVar[Identity] = ContextVar("identity")


def current_identity() -> Identity:
    """Who called the RPC that is being handled. Raises Internal outside of one."""
    try:
        return _identity.get()
    except LookupError:
        raise Internal("no request is being handled here") from None


def set_identity(identity: Identity) -> None:
    """For the rest of the current task, which handles one RPC."""
    _identity.set(identity)


def authenticate(auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
    """The identity in a call's TLS context. Raises Unauthenticated if there is none or its certificate has ended."""
    pem = next(iter(auth_context.get("x509_pem_cert") or ()), None)
    if pem is None:
        raise Unauthenticated("failed to extract client role: no TLS information found")
    identity = _identity_of(pem)
    if identity.not_after <= datetime.now(UTC):
        raise expired()
    return identity


def authorize(method: str, identity: Identity, table: AccessTable) -> None:
    """Raises PermissionDenied unless the table lets the identity's role call `method`; no row means nobody may."""
    if method.startswith(HEALTH_PREFIX):
        return
    if not identity.ou:
        raise Unauthenticated("failed to extract client role: no organizational unit found in the certificate")
    row = table.get(method)
    if row is None or identity.role not in row.roles:
        operation = row.operation if row else method
        raise PermissionDenied(f"role {identity.ou} is not allowed to perform operation {operation}")


def expired() -> Unauthenticated:
    return Unauthenticated("certificate verify failed: certificate has expired")


def check_complete(table: AccessTable, services: Iterable[ServiceDescriptor]) -> None:
    """Raises StartError naming every method of `services` that has no row."""
    methods = [method for service in services for method in methods_of(service)]
    missing = [method for method in methods if method not in table]
    if missing:
        raise StartError(f"the access table has no row for {', '.join(missing)}")


def methods_of(service: ServiceDescriptor) -> list[str]:
    return [f"/{service.full_name}/{method.name}" for method in service.methods]


# One connection carries many calls, and a node or a gateway calls for months with one certificate.
_identity_of = lru_cache(maxsize=1024)(pki.identity_of)
