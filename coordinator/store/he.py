"""Keys of rounds whose devices encrypt, and what the authority is asked for."""

import dataclasses
from typing import Final

import sqlalchemy as sa

from coordinator.protocol.he.messages import SignedKey
from coordinator.protocol.secagg.summands import Encoding
from coordinator.store.engine import Transaction
from coordinator.store.tables import he_keys


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BlindedSum:
    """What the authority is asked to decrypt; every try asks for the same."""

    blob: str
    sha256: str
    summed: tuple[str, ...]  #: ids of the assignments in it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundKey:
    """The key of a round, but for its public half."""

    key: SignedKey
    encoding: Encoding
    blinding_key: bytes = dataclasses.field(repr=False)
    public_bytes: int  #: length of the public half
    blinded: BlindedSum | None


_FIND: Final = sa.select(
    *(column for column in he_keys.c if column is not he_keys.c.public),
    sa.func.length(he_keys.c.public).label("public_bytes"),
).where(he_keys.c.round_id == sa.bindparam("round_id"))


def insert(
    tx: Transaction,
    round_id: int,
    *,
    key: SignedKey,
    encoding: Encoding,
    public: bytes,
    blinding_key: bytes,
) -> None:
    """Keep a round's key."""
    tx.connection.execute(
        he_keys.insert().values(
            round_id=round_id,
            key_id=key.statement.key_id,
            key=key.model_dump_json(),
            encoding=encoding.model_dump_json(),
            public=public,
            blinding_key=blinding_key.hex(),
        )
    )


def find(tx: Transaction, round_id: int) -> RoundKey | None:
    """Return the key of a round; none: it has none yet, or none any more."""
    row = tx.connection.execute(_FIND, {"round_id": round_id}).one_or_none()
    if row is None:
        return None
    blinded = None
    if row.sum_blob is not None:
        blinded = BlindedSum(
            blob=row.sum_blob, sha256=row.sum_sha256, summed=tuple(row.summed)
        )
    return RoundKey(
        key=SignedKey.model_validate_json(row.key),
        encoding=Encoding.model_validate_json(row.encoding),
        blinding_key=bytes.fromhex(row.blinding_key),
        public_bytes=row.public_bytes,
        blinded=blinded,
    )


def public_key(tx: Transaction, key_id: str) -> bytes | None:
    """Return the public half of a key; none: its round has ended, or there is none."""
    found: bytes | None = tx.connection.execute(
        sa.select(he_keys.c.public).where(he_keys.c.key_id == key_id)
    ).scalar_one_or_none()
    return found


def keep_sum(tx: Transaction, round_id: int, blinded: BlindedSum) -> None:
    """Note what the authority will be asked for, once.

    Raises:
        StaleWrite: Another worker has noted another.
    """
    tx.change_one(
        he_keys.update()
        .where(he_keys.c.round_id == round_id, he_keys.c.sum_blob.is_(None))
        .values(
            sum_blob=blinded.blob,
            sum_sha256=blinded.sha256,
            summed=list(blinded.summed),
        )
    )


def forget(tx: Transaction, round_id: int) -> None:
    """Delete the key of a round."""
    tx.connection.execute(he_keys.delete().filter_by(round_id=round_id))
