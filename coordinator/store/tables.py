"""The schema, the same on SQLite and Postgres. Invariants are constraints.

Columns under "fixed" never change after the insert.
"""

import datetime as dt
from typing import Any, Final

import sqlalchemy as sa

from coordinator.domain.rounds import TERMINAL

metadata: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Utc(sa.types.TypeDecorator[dt.datetime]):
    """An aware UTC moment. SQLite stores it without its zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self, value: dt.datetime | None, dialect: sa.Dialect
    ) -> dt.datetime | None:
        """Refuse moments without a zone, and store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment needs a time zone, got {value}")
        moment = value.astimezone(dt.UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(
        self,
        value: dt.datetime | None,
        dialect: sa.Dialect,  # noqa: ARG002 - the signature is SQLAlchemy's
    ) -> dt.datetime | None:
        """Return the moment in UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            return value.replace(tzinfo=dt.UTC)
        return value.astimezone(dt.UTC)


def _id() -> sa.String:
    return sa.String(64)


def _count() -> sa.BigInteger:
    return sa.BigInteger()


_OPEN: Final = sa.text(
    f"phase NOT IN ({', '.join(repr(str(phase)) for phase in sorted(TERMINAL))})"
)

operators = sa.Table(
    "operators",
    metadata,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    sa.Column("id", _id(), nullable=False),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("revoked_at", Utc),
    sa.Index("uq_operators_id", "id", unique=True),
)

enrolment_tokens = sa.Table(
    "enrolment_tokens",
    metadata,
    # fixed
    sa.Column("id", _id(), primary_key=True),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("max_uses", sa.Integer, nullable=False),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("expires_at", Utc, nullable=False),
    # changes
    sa.Column("uses", sa.Integer, nullable=False),
    sa.Column("revoked_at", Utc),
    sa.CheckConstraint("uses >= 0 AND uses <= max_uses", name="uses_within_limit"),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("id", _id(), primary_key=True),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.String(80)),
    sa.Column("capabilities", sa.JSON, nullable=False),
    sa.Column("enrolled_at", Utc, nullable=False, index=True),
    sa.Column("public_key", sa.String(200)),  # base64 of its SPKI; none: bearer only
    sa.Column("key_id", sa.String(64)),  # SHA-256 of that SPKI
    sa.Column("attestation", sa.String(32)),  # level that vouched for the key
    sa.Column("revoked_at", Utc),
    sa.Column("erased_at", Utc),
    # A key is one device, for good: an erased one's does not come back.
    sa.Index("uq_devices_key_id", "key_id", unique=True),
)

# Those that were answered: the open ones are told by their MAC.
challenges = sa.Table(
    "challenges",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("expires_at", Utc, nullable=False, index=True),
)

nonces = sa.Table(
    "nonces",
    metadata,
    # A signature counts once.
    sa.Column("device_id", _id(), sa.ForeignKey(devices.c.id), primary_key=True),
    sa.Column("nonce", sa.String(64), primary_key=True),
    sa.Column("forget_at", Utc, nullable=False, index=True),
)

# Rows are never deleted, and only the count of a refusal ever changes: triggers see to
# that.
audit = sa.Table(
    "audit",
    metadata,
    # fixed
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", Utc, nullable=False),
    sa.Column("decision", sa.String(40), nullable=False),
    sa.Column("subject", _id(), nullable=False),
    sa.Column("by", _id()),
    sa.Column("reason", sa.String(64)),
    sa.Column("minute", _count()),  # since 1970, of refusals
    # changes
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("last_at", Utc, nullable=False),
    # Refusals alike are one row a minute.
    sa.Index(
        "uq_audit_minute_reason_subject", "minute", "reason", "subject", unique=True
    ),
    sqlite_autoincrement=True,  # an id is never given twice
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("id", _id(), primary_key=True),
    sa.Column("manifest", sa.Text, nullable=False),  # canonical JSON
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("registered_at", Utc, nullable=False),
)

tasks = sa.Table(
    "tasks",
    metadata,
    # fixed
    sa.Column("id", _id(), primary_key=True),
    sa.Column("model", _id(), sa.ForeignKey(models.c.id), nullable=False),
    sa.Column("plan", sa.Text, nullable=False),  # JSON
    sa.Column("created_at", Utc, nullable=False),
    # changes
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("rounds_committed", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("updated_by", sa.String(40), nullable=False),  # the transaction's name
)

rounds = sa.Table(
    "rounds",
    metadata,
    # fixed
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task", _id(), sa.ForeignKey(tasks.c.id), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("model", _id(), nullable=False),
    sa.Column("base_version", sa.Integer, nullable=False),
    sa.Column("goal", sa.Integer, nullable=False),
    sa.Column("minimum", sa.Integer, nullable=False),
    sa.Column("over_select", sa.Double, nullable=False),
    sa.Column("lease_s", sa.Double, nullable=False),
    sa.Column("deadline_s", sa.Double, nullable=False),
    sa.Column("concurrency", sa.Integer),  # none: synchronous
    sa.Column("max_rounds", sa.Integer),  # a device's; none: any number
    sa.Column("min_separation", sa.Integer),  # rounds; none: the next one at once
    sa.Column("sampling_rate", sa.Double),  # of secret coins; none: who comes first
    sa.Column("step_s", sa.Double),  # of secure aggregation; none: there is none
    # what devices join; none: results in the clear; without step_s: they encrypt them
    sa.Column("session", _id()),
    sa.Column("opened_at", Utc, nullable=False),
    # changes
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("deadline", Utc, nullable=False),
    sa.Column("claims", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(64)),
    sa.Column("result_version", sa.Integer),
    sa.Column("closed_at", Utc),
    sa.Column("reason", sa.Text),
    sa.Column("blobs_deleted", sa.Boolean, nullable=False, default=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("updated_by", sa.String(40), nullable=False),
    sa.ForeignKeyConstraint(
        ["model", "base_version"], ["versions.model", "versions.number"]
    ),
    sa.UniqueConstraint("task", "kind", "number", "attempt"),
    sa.CheckConstraint("minimum >= 1 AND minimum <= goal", name="minimum_within_goal"),
    # At most one round of a task and kind is open, whatever the application believes.
    sa.Index(
        "uq_rounds_one_open",
        "task",
        "kind",
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    ),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("model", _id(), sa.ForeignKey(models.c.id), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("task", _id(), nullable=False, index=True),
    sa.Column("round_id", sa.Integer, unique=True),  # none: a task's first
    sa.Column("weights_sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", _count(), nullable=False),
    sa.Column("optimizer_sha256", sa.String(64)),  # none: the optimizer has no state
    # L2; none: no round made it, or one before this was kept
    sa.Column("aggregate_norm", sa.Double),
    sa.Column("published_at", Utc, nullable=False),
)

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("model", _id(), primary_key=True),
    sa.Column("name", _id(), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("set_at", Utc, nullable=False),
    sa.ForeignKeyConstraint(
        ["model", "version"], ["versions.model", "versions.number"]
    ),
)

assignments = sa.Table(
    "assignments",
    metadata,
    # fixed
    sa.Column("id", _id(), primary_key=True),
    sa.Column("base_version", sa.Integer),  # none: the round's
    sa.Column("device_id", _id(), sa.ForeignKey(devices.c.id), nullable=False),
    sa.Column("idempotency_key", sa.String(64), nullable=False),
    sa.Column("leased_at", Utc, nullable=False),
    sa.Column("lease_expires_at", Utc, nullable=False),
    # changes; the round while it is leased, in an asynchronous task
    sa.Column("round_id", sa.Integer, sa.ForeignKey(rounds.c.id), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("ended_at", Utc),
    sa.Column("failure", sa.String(32)),
    sa.Column("failure_detail", sa.String(500)),
    sa.UniqueConstraint("device_id", "idempotency_key"),
    sa.Index("ix_assignments_round_id_state", "round_id", "state"),
    sa.Index("ix_assignments_device_id_round_id", "device_id", "round_id"),
    # A device holds one lease at a time, and counts once in a round.
    sa.Index(
        "uq_assignments_one_leased",
        "device_id",
        unique=True,
        sqlite_where=sa.text("state = 'leased'"),
        postgresql_where=sa.text("state = 'leased'"),
    ),
    sa.Index(
        "uq_assignments_one_accepted",
        "round_id",
        "device_id",
        unique=True,
        sqlite_where=sa.text("state = 'accepted'"),
        postgresql_where=sa.text("state = 'accepted'"),
    ),
)

updates = sa.Table(
    "updates",
    metadata,
    sa.Column(
        "assignment_id", _id(), sa.ForeignKey(assignments.c.id), primary_key=True
    ),
    sa.Column("round_id", sa.Integer, sa.ForeignKey(rounds.c.id), nullable=False),
    sa.Column("blob", sa.String(200), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column(
        "size_bytes", _count(), nullable=False
    ),  # as sent, content coding and all
    sa.Column("examples", _count(), nullable=False),
    sa.Column("train_loss", sa.Double, nullable=False),
    sa.Column("train_accuracy", sa.Double, nullable=False),
    sa.Column("staleness", sa.Integer),  # none: synchronous
    sa.Column("accepted_at", Utc, nullable=False),
    sa.Index("ix_updates_round_id", "round_id"),
)

# Devices that are summed together; deleted when their round has ended.
secagg_cohorts = sa.Table(
    "secagg_cohorts",
    metadata,
    # fixed
    sa.Column("id", _id(), primary_key=True),
    sa.Column(
        "round_id", sa.Integer, sa.ForeignKey(rounds.c.id), nullable=False, index=True
    ),
    sa.Column("content", sa.Text, nullable=False),  # JSON: manifest and members
    # changes once
    sa.Column("sharers", sa.JSON(none_as_null=True)),  # places, once decided
    sa.Column("survivors", sa.JSON(none_as_null=True)),  # places, once decided
    sa.Column("ended", sa.Text),  # why its sum cannot be had
)

# What a device sent to its cohort, but for its vector; deleted with its cohort.
secagg_members = sa.Table(
    "secagg_members",
    metadata,
    # fixed
    sa.Column(
        "assignment_id", _id(), sa.ForeignKey(assignments.c.id), primary_key=True
    ),
    sa.Column(
        "round_id", sa.Integer, sa.ForeignKey(rounds.c.id), nullable=False, index=True
    ),
    sa.Column("announcement", sa.Text, nullable=False),  # JSON
    # changes once
    sa.Column("cohort_id", _id(), sa.ForeignKey(secagg_cohorts.c.id)),
    sa.Column("place", sa.Integer),  # index in the cohort
    sa.Column("dealing", sa.LargeBinary),  # sealed shares, packed
    sa.Column("reveal", sa.Text),  # JSON: shares
    sa.UniqueConstraint("cohort_id", "place"),
)

# The keys of rounds whose devices encrypt, without their secret halves; deleted with
# the results.
he_keys = sa.Table(
    "he_keys",
    metadata,
    sa.Column("round_id", sa.Integer, sa.ForeignKey(rounds.c.id), primary_key=True),
    sa.Column("key_id", _id(), nullable=False, unique=True),
    sa.Column("key", sa.Text, nullable=False),  # JSON: SignedKey
    sa.Column("encoding", sa.Text, nullable=False),  # JSON
    sa.Column("public", sa.LargeBinary, nullable=False),
    sa.Column("blinding_key", sa.String(64), nullable=False),  # hex
    # changes once: the sum that the authority is asked for
    sa.Column("sum_blob", sa.Text),
    sa.Column("sum_sha256", sa.String(64)),
    sa.Column("summed", sa.JSON(none_as_null=True)),  # assignments in it
)

# Whoever knows it can take the noise off again; it goes when the task has ended.
noise_secrets = sa.Table(
    "noise_secrets",
    metadata,
    sa.Column("task", _id(), sa.ForeignKey(tasks.c.id), primary_key=True),
    sa.Column("secret", sa.String(64), nullable=False),  # hex
)

# Whom coins chose for a round: secret, and gone when the round has ended.
chosen = sa.Table(
    "chosen",
    metadata,
    sa.Column("round_id", sa.Integer, sa.ForeignKey(rounds.c.id), primary_key=True),
    sa.Column("device_id", _id(), sa.ForeignKey(devices.c.id), primary_key=True),
)

# The ledger. Rows are only added, each with the version that it pays for.
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("task", _id(), sa.ForeignKey(tasks.c.id), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    # A round is released once.
    sa.Column(
        "round_id", sa.Integer, sa.ForeignKey(rounds.c.id), nullable=False, unique=True
    ),
    sa.Column("mechanism", sa.String(32), nullable=False),
    sa.Column("clip_norm", sa.Double, nullable=False),
    sa.Column("noise_multiplier", sa.Double, nullable=False),  # of the vector
    sa.Column("terms", sa.JSON, nullable=False),  # what the accountant is told
    sa.Column("epsilon", sa.Double, nullable=False),  # of this and all before
    sa.Column("accountant", sa.String(80), nullable=False),
    sa.Column("released_at", Utc, nullable=False),
    sa.CheckConstraint("number >= 1", name="from_one"),
)

# What has come in of an update that is sent in parts: deleted with its lease, or with
# the round that it landed in.
partial_uploads = sa.Table(
    "partial_uploads",
    metadata,
    # fixed
    sa.Column(
        "assignment_id", _id(), sa.ForeignKey(assignments.c.id), primary_key=True
    ),
    sa.Column("sha256", sa.String(64), nullable=False),  # of the whole, as sent
    sa.Column("coding", sa.String(16), nullable=False),
    # changes
    sa.Column("length", _count()),  # of the whole; none: not known yet
    sa.Column("reserved_bytes", _count(), nullable=False),
    sa.Column("parts", sa.JSON, nullable=False),  # name and size of each, in order
    sa.Column("is_complete", sa.Boolean, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.CheckConstraint("reserved_bytes >= 0", name="reserved_not_negative"),
)

evaluations = sa.Table(
    "evaluations",
    metadata,
    # deleted when the round has ended
    sa.Column(
        "assignment_id", _id(), sa.ForeignKey(assignments.c.id), primary_key=True
    ),
    sa.Column("round_id", sa.Integer, sa.ForeignKey(rounds.c.id), nullable=False),
    sa.Column("examples", _count(), nullable=False),
    sa.Column("loss_sum", sa.Double, nullable=False),
    sa.Column("correct", _count(), nullable=False),
    sa.Column("personalized_loss_sum", sa.Double),  # none: it did not fine-tune
    sa.Column("personalized_correct", _count()),
    sa.Column("accepted_at", Utc, nullable=False),
    sa.Index("ix_evaluations_round_id", "round_id"),
)

scores = sa.Table(
    "scores",
    metadata,
    sa.Column("model", _id(), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("source", sa.String(16), primary_key=True),  # train, federated, held_out
    sa.Column("examples", _count(), nullable=False),
    sa.Column("loss", sa.Double, nullable=False),
    sa.Column("accuracy", sa.Double, nullable=False),
    sa.Column("devices", sa.Integer),
    sa.Column("distribution", sa.JSON(none_as_null=True)),  # over devices
    sa.Column("personalized", sa.JSON(none_as_null=True)),  # after fine-tuning
    sa.ForeignKeyConstraint(
        ["model", "version"], ["versions.model", "versions.number"]
    ),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("name", _id(), primary_key=True),  # as rounds name their owner
    sa.Column("started_at", Utc, nullable=False),
    sa.Column("seen_at", Utc, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", Utc, nullable=False),
    sa.Column("type", sa.String(40), nullable=False),
    sa.Column("task", _id()),
    sa.Column("round_id", sa.Integer),
    sa.Column("data", sa.JSON, nullable=False),
    sqlite_autoincrement=True,  # an id is never given twice
)

Row = sa.Row[*tuple[Any, ...]]
