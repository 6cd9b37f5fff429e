"""Which files the rows name, and whether the database itself is whole."""

import dataclasses
from typing import Final

import sqlalchemy as sa

from coordinator.domain.rounds import TERMINAL
from coordinator.store import models
from coordinator.store.blobs import name_of
from coordinator.store.engine import Transaction
from coordinator.store.tables import he_keys, rounds, updates, versions

_VERSIONS: Final = sa.select(
    versions.c.model,
    versions.c.number,
    versions.c.weights_sha256,
    versions.c.size_bytes,
    versions.c.optimizer_sha256,
)
_UPDATES: Final = (
    sa.select(updates.c.blob, updates.c.sha256, updates.c.round_id, rounds.c.phase)
    .join(rounds, rounds.c.id == updates.c.round_id)
    .where(rounds.c.blobs_deleted.is_(False))
)
_SUMS: Final = (
    sa.select(
        he_keys.c.sum_blob.label("blob"),
        he_keys.c.sum_sha256.label("sha256"),
        he_keys.c.round_id,
        rounds.c.phase,
    )
    .join(rounds, rounds.c.id == he_keys.c.round_id)
    .where(he_keys.c.sum_blob.is_not(None))
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A file that a row names."""

    name: str  #: in the blob store
    sha256: str
    size_bytes: int | None  #: none: no row says
    what: str
    is_needed: bool  #: not an update of a round that has ended


def named_files(tx: Transaction) -> dict[str, Named]:
    """Return every file that a row names, by its name."""
    found = []
    for model in models.every(tx):
        manifest = model.manifest
        owner = f"of model {model.id}"
        found.append(
            _kept(model.manifest_sha256, model.manifest_size_bytes, f"manifest {owner}")
        )
        found += [
            _kept(each.sha256, each.size_bytes, f"{each.file} {owner}")
            for each in manifest.artefacts
        ]
    for row in tx.connection.execute(_VERSIONS):
        owner = f"of version {row.number} of model {row.model}"
        found.append(_kept(row.weights_sha256, row.size_bytes, f"weights {owner}"))
        if row.optimizer_sha256 is not None:
            found.append(_kept(row.optimizer_sha256, None, f"state {owner}"))
    for query, what in ((_UPDATES, "an update"), (_SUMS, "the blinded sum")):
        found += [
            Named(
                name=row.blob,
                sha256=row.sha256,
                size_bytes=None,
                what=f"{what} of round {row.round_id}",
                is_needed=row.phase not in TERMINAL,
            )
            for row in tx.connection.execute(query)
        ]
    return {each.name: each for each in found}


def faults(tx: Transaction) -> list[str]:
    """Return what the database says is wrong with itself. Postgres is not asked."""
    if tx.connection.dialect.name != "sqlite":
        return []
    said = tx.connection.execute(sa.text("PRAGMA integrity_check")).scalars()
    wrong = [line for line in said if line != "ok"]
    keys = tx.connection.execute(sa.text("PRAGMA foreign_key_check"))
    return wrong + [
        f"row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there"
        for row in keys
    ]


def _kept(sha256: str, size_bytes: int | None, what: str) -> Named:
    return Named(
        name=name_of(sha256),
        sha256=sha256,
        size_bytes=size_bytes,
        what=what,
        is_needed=True,
    )
