"""What the authority keeps: keys, what was decrypted with each, and who it is."""

import dataclasses
import datetime as dt
import hashlib
import os
import pathlib
import secrets
from collections.abc import Sequence
from typing import Final

import numpy as np
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from coordinator import ciphertexts, kept_secrets
from coordinator.protocol import device_keys, discrete_gaussian
from coordinator.protocol.he import bfv, parameters
from coordinator.protocol.he.messages import (
    IssuedKey,
    KeyRequest,
    KeyStatement,
    MalformedEnvelope,
    SignedKey,
    Summand,
)
from coordinator.protocol.keystream import KEY_BYTES, Keystream

TOKEN_FILE: Final = "coordinator.token"  # noqa: S105 - a file name
PUBLIC_FILE: Final = "authority.pub"
_KEY_FILE: Final = "authority.key"
_KEPT: Final = dt.timedelta(days=7)

_metadata: Final = sa.MetaData()
_keys: Final = sa.Table(
    "keys",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("statement", sa.Text, nullable=False),  # JSON
    sa.Column("made_at", sa.Double, nullable=False),  # POSIX seconds
    sa.Column("secret", sa.LargeBinary),  # none: it is spent
    sa.Column("request_sha256", sa.String(64)),  # what it is, or was, spent on
    sa.Column("answer", sa.LargeBinary),
)


class KeyUnknown(Exception):
    """The authority made no such key, or has forgotten it."""


class KeySpent(Exception):
    """Another sum was decrypted with the key."""


class TooFewSigned(Exception):
    """Too few devices signed results for the key, or some did not."""


class Undecryptable(Exception):
    """The bytes are no ciphertexts under the key."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Stored:
    statement: KeyStatement
    secret: bytes | None
    request_sha256: str | None
    answer: bytes | None


class Vault:
    """The authority's folder."""

    def __init__(
        self, folder: pathlib.Path, *, roster: frozenset[str] | None = None
    ) -> None:
        """Open it, or make it.

        Args:
            folder: Where all lies.
            roster: Names of the device keys that count; none: any key counts, once.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._roster = roster
        secret = kept_secrets.read_or_draw(folder / _KEY_FILE, _new_identity)
        self._identity = ed25519.Ed25519PrivateKey.from_private_bytes(
            bytes.fromhex(secret)
        )
        self.public = self._identity.public_key().public_bytes_raw().hex()
        self.token = kept_secrets.read_or_draw(folder / TOKEN_FILE)
        (folder / PUBLIC_FILE).write_text(self.public + "\n", encoding="ascii")
        database = folder / "authority.db"
        self._engine = sa.create_engine(f"sqlite:///{database}")
        _metadata.create_all(self._engine)
        database.chmod(0o600)

    def issue(self, request: KeyRequest, *, now: dt.datetime) -> IssuedKey:
        """Draw a key pair, keep the secret half, and sign the public one.

        Keys older than a week are forgotten.
        """
        secret, public = bfv.generate()
        statement = KeyStatement(
            key_id=secrets.token_hex(16),
            session=request.session,
            public_sha256=hashlib.sha256(public).hexdigest(),
            degree=parameters.DEGREE,
            modulus=parameters.MODULUS,
            length=request.length,
            minimum=request.minimum,
            noisy=request.noisy,
            noise_stddev=request.noise_stddev,
        )
        signature = self._identity.sign(statement.signed_bytes())
        with self._engine.begin() as connection:
            oldest = (now - _KEPT).timestamp()
            connection.execute(_keys.delete().where(_keys.c.made_at < oldest))
            connection.execute(
                _keys.insert().values(
                    id=statement.key_id,
                    statement=statement.model_dump_json(),
                    made_at=now.timestamp(),
                    secret=secret,
                )
            )
        return IssuedKey(
            key=SignedKey(statement=statement, signature=signature), public=public
        )

    def decrypt(
        self, key_id: str, ciphertext: bytes, summands: Sequence[Summand]
    ) -> bytes:
        """Decrypt one sum. The same bytes again give the same answer.

        Returns:
            Residues, little-endian uint64; noise is in them where the key says so.

        Raises:
            KeyUnknown, KeySpent, TooFewSigned, Undecryptable: As their names say.
        """
        sha256 = hashlib.sha256(ciphertext).hexdigest()
        stored = self._find(key_id)
        if stored.request_sha256 not in {None, sha256}:
            raise KeySpent(f"another sum was decrypted with key {key_id}")
        if stored.answer is not None:
            return stored.answer
        self._insist_signed(stored.statement, summands)
        with self._engine.begin() as connection:  # whoever is first: one statement
            changed = connection.execute(
                _keys.update()
                .where(
                    _keys.c.id == key_id,
                    _keys.c.request_sha256.is_(None)
                    | (_keys.c.request_sha256 == sha256),
                )
                .values(request_sha256=sha256)
            ).rowcount
        if not changed:
            raise KeySpent(f"another sum was decrypted with key {key_id}")
        secret = self._find(key_id).secret
        if secret is not None:
            self._keep_answer(key_id, self._decrypt(stored, secret, ciphertext))
        # What was kept first counts: its noise is the only noise that is ever seen.
        answer = self._find(key_id).answer
        if answer is None:
            raise AssertionError(f"key {key_id} is spent and has no answer")
        return answer

    def _decrypt(self, stored: _Stored, secret: bytes, ciphertext: bytes) -> bytes:
        statement = stored.statement
        try:
            numbers = ciphertexts.decrypt(
                ciphertext, secret_key=secret, length=statement.length
            )
        except ciphertexts.CiphertextLost as error:
            raise Undecryptable(str(error)) from error
        if statement.noise_stddev:
            noise = discrete_gaussian.sample(
                Keystream(os.urandom(KEY_BYTES)),
                stddev=statement.noise_stddev,
                size=statement.noisy,
            )
            noisy = numbers[: statement.noisy].astype(np.int64) + noise
            numbers[: statement.noisy] = (noisy % parameters.MODULUS).astype(np.uint64)
        return numbers.astype("<u8").tobytes()

    def _insist_signed(
        self, statement: KeyStatement, summands: Sequence[Summand]
    ) -> None:
        names = set()
        for summand in summands:
            try:
                name = summand.insist_signed(statement.key_id, statement.session)
            except MalformedEnvelope as error:
                raise TooFewSigned(str(error)) from error
            if self._roster is not None and name not in self._roster:
                raise TooFewSigned(f"device key {name} is not on the roster")
            names.add(name)
        if len(names) < statement.minimum:
            raise TooFewSigned(
                f"{len(names)} devices signed results, the key needs "
                f"{statement.minimum}"
            )

    def _find(self, key_id: str) -> _Stored:
        query = sa.select(_keys).where(_keys.c.id == key_id)
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise KeyUnknown(f"there is no key {key_id}")
        return _Stored(
            statement=KeyStatement.model_validate_json(row.statement),
            secret=row.secret,
            request_sha256=row.request_sha256,
            answer=row.answer,
        )

    def _keep_answer(self, key_id: str, answer: bytes) -> None:
        """Keep an answer before anybody sees it; the secret key goes with that."""
        with self._engine.begin() as connection:
            connection.execute(
                _keys.update()
                .where(_keys.c.id == key_id, _keys.c.answer.is_(None))
                .values(answer=answer, secret=None)
            )


def read_roster(path: pathlib.Path) -> frozenset[str]:
    """Read the device keys that count: base64 of the DER of one a line.

    Raises:
        ValueError: A line is none; the message names it.
    """
    names = set()
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            names.add(device_keys.parse(line.strip()).id)
        except device_keys.DeviceKeyRefused as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return frozenset(names)


def _new_identity() -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.Raw,
        serialization.PrivateFormat.Raw,
        serialization.NoEncryption(),
    ).hex()
