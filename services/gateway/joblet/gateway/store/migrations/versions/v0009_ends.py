"""Jobs in order of their ends, for retention.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("ended_ns > 0")
    op.create_index("jobs_ended", "jobs", ["ended_ns"], sqlite_where=where, postgresql_where=where)
