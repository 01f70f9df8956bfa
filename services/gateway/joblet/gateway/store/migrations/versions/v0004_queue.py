"""What jobs take of their nodes, and the order in which they wait for it.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("wanted_node", sa.Text, nullable=False, server_default=sa.text("''")))
    for name in ("rank", "need_cpu_percent", "need_memory_mb"):
        op.add_column("jobs", sa.Column(name, sa.Integer, nullable=False, server_default=sa.text("0")))
    for name in ("queued_ns", "due_ns"):
        op.add_column("jobs", sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE jobs SET need_cpu_percent = cpu_percent, need_memory_mb = memory_mb, queued_ns = submitted_ns")
    op.drop_index("jobs_active", "jobs")
    _index("jobs_active", ["node_id", "state", "need_cpu_percent", "need_memory_mb"], "IN ('INITIALIZING', 'RUNNING')")
    _index("jobs_waiting", ["wanted_node", "rank", "queued_ns", "sequence"], "= 'PENDING'")
    op.drop_index("jobs_state", "jobs")
    op.create_index("jobs_state", "jobs", ["state", "queued_ns", "rank"])
    _index("jobs_due", ["due_ns"], "= 'SCHEDULED'")


def _index(name: str, columns: list[str], states: str) -> None:
    where = sa.text(f"state {states}")
    op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
