"""Differential privacy: a task's secret, who was chosen, and the ledger

Revision: 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "noise_secrets",
        sa.Column("task", sa.String(length=64), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["task"], ["tasks.id"], name=op.f("fk_noise_secrets_task_tasks")
        ),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_noise_secrets")),
    )
    op.create_table(
        "chosen",
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_chosen_device_id_devices")
        ),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rounds.id"], name=op.f("fk_chosen_round_id_rounds")
        ),
        sa.PrimaryKeyConstraint("round_id", "device_id", name=op.f("pk_chosen")),
    )
    op.create_table(
        "releases",
        sa.Column("task", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("mechanism", sa.String(length=32), nullable=False),
        sa.Column("clip_norm", sa.Double(), nullable=False),
        sa.Column("noise_multiplier", sa.Double(), nullable=False),
        sa.Column("terms", sa.JSON(), nullable=False),
        sa.Column("epsilon", sa.Double(), nullable=False),
        sa.Column("accountant", sa.String(length=80), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("number >= 1", name=op.f("ck_releases_from_one")),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rounds.id"], name=op.f("fk_releases_round_id_rounds")
        ),
        sa.ForeignKeyConstraint(
            ["task"], ["tasks.id"], name=op.f("fk_releases_task_tasks")
        ),
        sa.PrimaryKeyConstraint("task", "number", name=op.f("pk_releases")),
        sa.UniqueConstraint("round_id", name=op.f("uq_releases_round_id")),
    )
    op.add_column("rounds", sa.Column("sampling_rate", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("rounds", "sampling_rate")
    op.drop_table("releases")
    op.drop_table("chosen")
    op.drop_table("noise_secrets")
