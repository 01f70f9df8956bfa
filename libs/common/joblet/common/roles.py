"""Who is calling: the subject of a verified certificate, `CN=<name>, OU=<role>, O=<organization>`."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """The organizational units that mean something; a certificate with any other OU is allowed nothing."""

    ADMIN = "admin"  # a person: everything
    VIEWER = "viewer"  # a person: get, list, stream
    GATEWAY = "gateway"  # the gateway calling the services of a node
    NODE = "node"  # executor, logstore and runtime of one node calling the gateway


_ROLES = {role.value: role for role in Role}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate says about its holder; `not_after` is timezone-aware (UTC), `serial` the X.509 serial."""

    common_name: str
    ou: str
    organization: str
    not_after: datetime
    serial: int

    @property
    def role(self) -> Role | None:
        """The role that `ou` names, None when it names none of ours."""
        return _ROLES.get(self.ou)
