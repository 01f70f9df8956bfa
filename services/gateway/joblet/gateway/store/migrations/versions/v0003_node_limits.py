"""What a node can give at most beside CPU time and memory: its cores by number, and processes.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("cores", sa.Text, nullable=False, server_default=sa.text("''")))
    op.add_column("nodes", sa.Column("max_processes", sa.Integer, nullable=False, server_default=sa.text("0")))
