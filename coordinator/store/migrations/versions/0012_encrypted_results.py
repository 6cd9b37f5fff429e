"""Homomorphic encryption: the keys of rounds

Revision: 0012.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "he_keys",
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("encoding", sa.Text(), nullable=False),
        sa.Column("public", sa.LargeBinary(), nullable=False),
        sa.Column("blinding_key", sa.String(length=64), nullable=False),
        sa.Column("sum_blob", sa.Text(), nullable=True),
        sa.Column("sum_sha256", sa.String(length=64), nullable=True),
        sa.Column("summed", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rounds.id"], name=op.f("fk_he_keys_round_id_rounds")
        ),
        sa.PrimaryKeyConstraint("round_id", name=op.f("pk_he_keys")),
        sa.UniqueConstraint("key_id", name=op.f("uq_he_keys_key_id")),
    )


def downgrade() -> None:
    op.drop_table("he_keys")
