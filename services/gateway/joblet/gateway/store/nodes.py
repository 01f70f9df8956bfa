"""Queries on nodes: heartbeats, leases, and what becomes of the jobs of a node that is lost."""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, insert, select, update

from joblet.common.errors import Internal
from joblet.common.states import Reason
from joblet.common.units import rfc3339
from joblet.gateway.store import attempts
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.model import Node, NodeState
from joblet.gateway.store.schema import nodes
from joblet.gateway.store.statement import Statement

EXIT_CODE_UNKNOWN = -1

_ALL = select(nodes).order_by(nodes.c.id)
_BY_ID = select(nodes).where(nodes.c.id == bindparam("node")).with_for_update()
_LAST_SEQUENCE = Statement(select(nodes.c.last_sequence).where(nodes.c.id == bindparam("node")).with_for_update())
_INSERT = insert(nodes)
_RENEW = (
    update(nodes)
    .where(nodes.c.id == bindparam("node"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "state", "executor_address", "logstore_address", "runtime_address", "boot_id", "cpu_cores",
                "memory_bytes", "labels", "version", "system", "last_seen_ns", "lease_until_ns", "cores",
                "max_processes", "work_bytes", "content_bytes",
            )
        }
    )
)  # fmt: skip
_SET_STATE = update(nodes).where(nodes.c.id == bindparam("node")).values(state=bindparam("new_state"))
_SET_SEQUENCE = Statement(
    update(nodes).where(nodes.c.id == bindparam("node")).values(last_sequence=bindparam("new_sequence"))
)
_SET_SEEN = (
    update(nodes)
    .where(nodes.c.id == bindparam("node"))
    .values(last_seen_ns=bindparam("new_seen"), lease_until_ns=bindparam("new_until"))
)


@dataclass(frozen=True, slots=True)
class Description:
    """What a heartbeat says about its node."""

    node_id: str
    executor_address: str
    logstore_address: str
    runtime_address: str
    boot_id: str
    cpu_cores: int
    memory_bytes: int
    labels: dict[str, str]
    version: str
    system: str
    cores: str
    max_processes: int
    work_bytes: int
    content_bytes: int


def all_nodes(connection: Connection) -> list[Node]:
    return [Node(*row) for row in connection.execute(_ALL)]


def get(connection: Connection, node_id: str) -> Node | None:
    row = connection.execute(_BY_ID, {"node": node_id}).first()
    return None if row is None else Node(*row)


def last_sequence(connection: Connection, node_id: str) -> int:
    """Number of the last event applied. Raises Internal for a node that was never registered."""
    row = _LAST_SEQUENCE.first(connection, {"node": node_id})
    if row is None:
        raise Internal(f"node {node_id} is not in the store")
    number: int = row[0]
    return number


def heartbeat(connection: Connection, description: Description, now_ns: int, lease_ns: int) -> Node:
    """Registers the node or renews its lease."""
    values = {
        "state": NodeState.READY,
        "executor_address": description.executor_address,
        "logstore_address": description.logstore_address,
        "runtime_address": description.runtime_address,
        "boot_id": description.boot_id,
        "cpu_cores": description.cpu_cores,
        "memory_bytes": description.memory_bytes,
        "labels": description.labels,
        "version": description.version,
        "system": description.system,
        "last_seen_ns": now_ns,
        "lease_until_ns": now_ns + lease_ns,
        "cores": description.cores,
        "max_processes": description.max_processes,
        "work_bytes": description.work_bytes,
        "content_bytes": description.content_bytes,
    }
    known = get(connection, description.node_id)
    if known is None:
        connection.execute(_INSERT, {"id": description.node_id, "registered_ns": now_ns, "last_sequence": 0, **values})
        return Node(id=description.node_id, registered_ns=now_ns, last_sequence=0, **values)  # type: ignore[arg-type]
    connection.execute(_RENEW, {"node": known.id} | {f"new_{name}": value for name, value in values.items()})
    return Node(
        id=known.id, registered_ns=known.registered_ns, last_sequence=known.last_sequence, **values  # type: ignore[arg-type]
    )  # fmt: skip


def extend_lease(connection: Connection, node_id: str, now_ns: int, lease_ns: int) -> None:
    """A node that answers is not lost, whatever became of its heartbeats."""
    connection.execute(_SET_SEEN, {"node": node_id, "new_seen": now_ns, "new_until": now_ns + lease_ns})


def mark_lost(connection: Connection, node_id: str, now_ns: int) -> list[str]:
    """Fails every job of a node whose lease has run out; their ids. Nothing when it has been renewed meanwhile."""
    node = get(connection, node_id)
    if node is None or node.state is NodeState.LOST or node.lease_until_ns > now_ns:
        return []
    connection.execute(_SET_STATE, {"node": node_id, "new_state": NodeState.LOST})
    message = f"node {node_id} was last heard of at {rfc3339(node.last_seen_ns)}"
    lost = [job.id for job in job_queries.active_of(connection, node_id)]
    for job_id in lost:
        attempts.fail(connection, job_id, Reason.NODE_LOST, message, EXIT_CODE_UNKNOWN, now_ns)
    return lost


def set_sequence(connection: Connection, node_id: str, sequence: int) -> None:
    """Number of the last event applied; part of the transaction that applies it."""
    _SET_SEQUENCE.run(connection, {"node": node_id, "new_sequence": sequence})
