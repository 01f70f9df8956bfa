"""Deleted jobs of which their node still has something.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "deletions",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_deletions"),
    )
    op.create_index("ix_deletions_node_id", "deletions", ["node_id"])
