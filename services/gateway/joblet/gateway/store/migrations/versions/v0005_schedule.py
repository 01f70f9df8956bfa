"""The schedule's index, such that SQLite prefers it to that of all states.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("state = 'SCHEDULED'")
    op.drop_index("jobs_due", "jobs")
    op.create_index("jobs_due", "jobs", ["state", "due_ns"], sqlite_where=where, postgresql_where=where)
