"""Devices of which everything is erased but that they took part

Revision: 0011.
"""

import sqlalchemy as sa
from alembic import op

from coordinator.store.tables import Utc

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("erased_at", Utc(), nullable=True))


def downgrade() -> None:
    op.drop_column("devices", "erased_at")
