"""How much jobs upload, and how much of that their nodes can take.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, name in (("nodes", "work_bytes"), ("nodes", "content_bytes"), ("jobs", "upload_bytes")):
        op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")))
