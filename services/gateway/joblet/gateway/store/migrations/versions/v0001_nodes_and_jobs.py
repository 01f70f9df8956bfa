"""Nodes, jobs and the contents of small uploads.

Revision ID: 0001
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", ID, nullable=False),
        *_texts("state", "executor_address", "logstore_address", "runtime_address", "boot_id"),
        sa.Column("cpu_cores", sa.Integer, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        *_texts("labels", "version", "system"),
        *_numbers("registered_ns", "last_seen_ns", "lease_until_ns"),
        sa.Column("last_sequence", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_table(
        "jobs",
        sa.Column("sequence", SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("id", ID, nullable=False),
        sa.Column("request_id", sa.Text),
        *_texts("request_digest", "node_id", "state"),
        sa.Column("acknowledged", sa.Boolean, nullable=False),
        *_texts("reason", "message"),
        sa.Column("exit_code", sa.Integer, nullable=False),
        sa.Column("signal", sa.Integer, nullable=False),
        *_numbers("submitted_ns", "started_ns", "ended_ns", "output_bytes"),
        *_texts("name", "command", "args"),
        sa.Column("cpu_percent", sa.Integer, nullable=False),
        *_texts("cpu_cores"),
        sa.Column("memory_mb", sa.Integer, nullable=False),
        *_numbers("io_bytes_per_second"),
        sa.Column("max_processes", sa.Integer, nullable=False),
        *_texts("environment", "secret_names", "network", "work_dir", "uploads"),
        *_numbers("timeout_seconds"),
        *_texts("labels", "not_isolated"),
        sa.Column("usage", sa.Text),
        sa.Column("attestation", sa.Text),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.UniqueConstraint("request_id", name="uq_jobs_request_id"),
        sqlite_autoincrement=True,
    )
    active = sa.text("state IN ('INITIALIZING', 'RUNNING')")
    op.create_index("jobs_active", "jobs", ["node_id", "state"], sqlite_where=active, postgresql_where=active)
    op.create_index("jobs_state", "jobs", ["state"])
    op.create_table(
        "payloads",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_payloads"),
    )


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]
