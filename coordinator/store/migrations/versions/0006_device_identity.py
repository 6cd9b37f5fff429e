"""Device identity: keys, nonces, enrolment tokens, roles, audit, participation

Revision: 0006.
"""

import secrets

import sqlalchemy as sa
from alembic import op

from coordinator.store.tables import Utc

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_FIXED = ("id", "at", "decision", "subject", "by", "reason", "minute")


def upgrade() -> None:
    op.create_table(
        "enrolment_tokens",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("max_uses", sa.Integer(), nullable=False),
        sa.Column("created_at", Utc(), nullable=False),
        sa.Column("expires_at", Utc(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("revoked_at", Utc(), nullable=True),
        sa.CheckConstraint(
            "uses >= 0 AND uses <= max_uses",
            name=op.f("ck_enrolment_tokens_uses_within_limit"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrolment_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_enrolment_tokens_token_hash")),
    )
    for column in (
        sa.Column("public_key", sa.String(200), nullable=True),
        sa.Column("key_id", sa.String(64), nullable=True),
        sa.Column("attestation", sa.String(32), nullable=True),
        sa.Column("revoked_at", Utc(), nullable=True),
    ):
        op.add_column("devices", column)
    op.create_index("uq_devices_key_id", "devices", ["key_id"], unique=True)
    op.create_table(
        "challenges",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("expires_at", Utc(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_challenges")),
    )
    op.create_index(op.f("ix_challenges_expires_at"), "challenges", ["expires_at"])
    op.create_table(
        "nonces",
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("nonce", sa.String(64), nullable=False),
        sa.Column("forget_at", Utc(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_nonces_device_id_devices")
        ),
        sa.PrimaryKeyConstraint("device_id", "nonce", name=op.f("pk_nonces")),
    )
    op.create_index(op.f("ix_nonces_forget_at"), "nonces", ["forget_at"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", Utc(), nullable=False),
        sa.Column("decision", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("by", sa.String(64), nullable=True),
        sa.Column("reason", sa.String(64), nullable=True),
        sa.Column("minute", sa.BigInteger(), nullable=True),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("last_at", Utc(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_audit_minute_reason_subject",
        "audit",
        ["minute", "reason", "subject"],
        unique=True,
    )
    _refuse_changes_of_the_audit_log()
    op.add_column("rounds", sa.Column("max_rounds", sa.Integer(), nullable=True))
    op.add_column("rounds", sa.Column("min_separation", sa.Integer(), nullable=True))
    _give_operators_roles()


def downgrade() -> None:
    # What the older code cannot tell apart must not gain rights there.
    op.execute("DELETE FROM operators WHERE revoked_at IS NOT NULL OR role <> 'admin'")
    op.execute(
        "UPDATE devices SET token_hash = 'revoked-' || id WHERE revoked_at IS NOT NULL"
    )
    with op.batch_alter_table("operators") as batch_op:
        batch_op.drop_index("uq_operators_id")
        for column in ("id", "name", "role", "revoked_at"):
            batch_op.drop_column(column)
    op.drop_column("rounds", "min_separation")
    op.drop_column("rounds", "max_rounds")
    op.drop_table("audit")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION refuse_audit_change()")
    op.drop_table("nonces")
    op.drop_table("challenges")
    op.drop_index("uq_devices_key_id", "devices")
    for column in ("public_key", "key_id", "attestation", "revoked_at"):
        op.drop_column("devices", column)
    op.drop_table("enrolment_tokens")


def _give_operators_roles() -> None:
    op.add_column("operators", sa.Column("id", sa.String(64), nullable=True))
    op.add_column("operators", sa.Column("name", sa.String(80), nullable=True))
    op.add_column("operators", sa.Column("role", sa.String(16), nullable=True))
    op.add_column("operators", sa.Column("revoked_at", Utc(), nullable=True))
    connection = op.get_bind()
    for (token_hash,) in connection.execute(
        sa.text("SELECT token_hash FROM operators")
    ).all():
        connection.execute(
            sa.text(
                "UPDATE operators SET id = :id, name = 'operator.token', "
                "role = 'admin' WHERE token_hash = :token_hash"
            ),
            {"id": secrets.token_hex(16), "token_hash": token_hash},
        )
    with op.batch_alter_table("operators") as batch_op:
        batch_op.alter_column("id", existing_type=sa.String(64), nullable=False)
        batch_op.alter_column("name", existing_type=sa.String(80), nullable=False)
        batch_op.alter_column("role", existing_type=sa.String(16), nullable=False)
    op.create_index("uq_operators_id", "operators", ["id"], unique=True)


def _refuse_changes_of_the_audit_log() -> None:
    """Let rows be added, the count of a refusal grow, and nothing else happen."""
    if op.get_bind().dialect.name == "sqlite":
        changed = " OR ".join(f'NEW."{name}" IS NOT OLD."{name}"' for name in _FIXED)
        op.execute(
            "CREATE TRIGGER audit_keeps_rows BEFORE DELETE ON audit BEGIN "
            "SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
        op.execute(
            "CREATE TRIGGER audit_keeps_words BEFORE UPDATE ON audit "
            f'WHEN {changed} OR NEW."times" <= OLD."times" BEGIN '
            "SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
        return
    changed = " OR ".join(
        f'NEW."{name}" IS DISTINCT FROM OLD."{name}"' for name in _FIXED
    )
    op.execute(
        "CREATE FUNCTION refuse_audit_change() RETURNS trigger AS $$ BEGIN "
        "RAISE EXCEPTION 'the audit log is append-only'; END $$ LANGUAGE plpgsql"
    )
    op.execute(
        "CREATE TRIGGER audit_keeps_rows BEFORE DELETE ON audit "
        "FOR EACH ROW EXECUTE FUNCTION refuse_audit_change()"
    )
    op.execute(
        "CREATE TRIGGER audit_keeps_words BEFORE UPDATE ON audit FOR EACH ROW "
        f'WHEN ({changed} OR NEW."times" <= OLD."times") '
        "EXECUTE FUNCTION refuse_audit_change()"
    )
