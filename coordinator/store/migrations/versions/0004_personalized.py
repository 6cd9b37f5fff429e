"""Personalized evaluation, and how accuracy is distributed over devices

Revision: 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("personalized_loss_sum", sa.Double(), nullable=True)
        )
        batch_op.add_column(
            sa.Column("personalized_correct", sa.BigInteger(), nullable=True)
        )
    with op.batch_alter_table("scores", schema=None) as batch_op:
        batch_op.add_column(sa.Column("distribution", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("personalized", sa.JSON(), nullable=True))
    # From now on they are deleted when their round has ended.
    op.execute(
        "DELETE FROM evaluations WHERE round_id IN "
        "(SELECT id FROM rounds WHERE phase IN ('committed', 'abandoned'))"
    )


def downgrade() -> None:
    with op.batch_alter_table("scores", schema=None) as batch_op:
        batch_op.drop_column("personalized")
        batch_op.drop_column("distribution")
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.drop_column("personalized_correct")
        batch_op.drop_column("personalized_loss_sum")
