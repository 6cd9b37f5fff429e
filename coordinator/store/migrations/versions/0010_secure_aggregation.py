"""Secure aggregation: a round's cohorts, and what their devices sent

Revision: 0010.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "secagg_cohorts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("sharers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("survivors", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rounds.id"], name=op.f("fk_secagg_cohorts_round_id_rounds")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_secagg_cohorts")),
    )
    op.create_index(op.f("ix_secagg_cohorts_round_id"), "secagg_cohorts", ["round_id"])
    op.create_table(
        "secagg_members",
        sa.Column("assignment_id", sa.String(length=64), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("announcement", sa.Text(), nullable=False),
        sa.Column("cohort_id", sa.String(length=64), nullable=True),
        sa.Column("place", sa.Integer(), nullable=True),
        sa.Column("dealing", sa.LargeBinary(), nullable=True),
        sa.Column("reveal", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["assignment_id"],
            ["assignments.id"],
            name=op.f("fk_secagg_members_assignment_id_assignments"),
        ),
        sa.ForeignKeyConstraint(
            ["cohort_id"],
            ["secagg_cohorts.id"],
            name=op.f("fk_secagg_members_cohort_id_secagg_cohorts"),
        ),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rounds.id"], name=op.f("fk_secagg_members_round_id_rounds")
        ),
        sa.PrimaryKeyConstraint("assignment_id", name=op.f("pk_secagg_members")),
        sa.UniqueConstraint(
            "cohort_id", "place", name=op.f("uq_secagg_members_cohort_id_place")
        ),
    )
    op.create_index(op.f("ix_secagg_members_round_id"), "secagg_members", ["round_id"])
    op.add_column("rounds", sa.Column("step_s", sa.Double(), nullable=True))
    op.add_column("rounds", sa.Column("session", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("rounds", "session")
    op.drop_column("rounds", "step_s")
    op.drop_table("secagg_members")
    op.drop_table("secagg_cohorts")
