"""Retries: what a job is given, and the attempts that have ended.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for name, default in (("max_retries", "0"), ("backoff_seconds", "0"), ("retries_left", "0"), ("attempt", "1")):
        op.add_column("jobs", sa.Column(name, sa.Integer, nullable=False, server_default=sa.text(default)))
    for name, default in (("no_retry_codes", "'[]'"), ("execution_id", "''")):
        op.add_column("jobs", sa.Column(name, sa.Text, nullable=False, server_default=sa.text(default)))
    where = sa.text("execution_id <> ''")
    op.create_index("jobs_execution", "jobs", ["execution_id"], sqlite_where=where, postgresql_where=where)
    op.create_table(
        "attempts",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("execution_id", ID, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("node_id", "state", "reason", "message")),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("exit_code", "signal")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("started_ns", "ended_ns", "output_bytes")),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
        sa.UniqueConstraint("execution_id", name="uq_attempts_execution_id"),
    )
