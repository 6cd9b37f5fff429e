"""Tags, and how long aggregates are

Revision: 0002, after 0001. Old code passes over what it adds.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tags",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.number"],
            name=op.f("fk_tags_model_version_versions"),
        ),
        sa.PrimaryKeyConstraint("model", "name", name=op.f("pk_tags")),
    )
    op.add_column("versions", sa.Column("aggregate_norm", sa.Double(), nullable=True))
