"""A device encrypts for the authority that it trusts, and for nobody else."""

import dataclasses
import hashlib
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from coordinator.protocol import device_keys
from coordinator.protocol.he import bfv, parameters
from coordinator.protocol.he.messages import (
    HEADER_BYTES,
    ForgedKey,
    KeyAnswer,
    KeyStatement,
    SignedKey,
    digest,
    open_envelope,
)
from coordinator.protocol.manifest import Manifest
from coordinator.protocol.messages import (
    Assignment,
    Download,
    EncryptionTerms,
    EvaluationReport,
)
from coordinator.protocol.secagg import session
from coordinator.protocol.secagg.summands import Encoding
from coordinator.protocol.vocabulary import Kind
from device_sim import identity, sealing
from device_sim.client import Client
from device_sim.secure import Result

AUTHORITY = ed25519.Ed25519PrivateKey.generate()
TRUSTED = AUTHORITY.public_key().public_bytes_raw()
SIGNER = identity.Signer(identity.new_key())
REPORT = EvaluationReport(examples=10, loss_sum=20.0, correct=5)
ENCODING = Encoding(
    size=1,
    clip_norm=1.0,
    bits=20,
    max_devices=10,
    weighting="examples",
    max_examples=10,
)
ASSIGNMENT = Assignment.model_construct(
    id="a" * 32,
    kind=Kind.EVALUATE,
    task="digits",
    round=1,
    attempt=1,
    training=None,
    secagg=None,
    weights=Download(url="/weights", sha256="0" * 64, size_bytes=1),
    encryption=EncryptionTerms(session="b" * 32, path="/encryption"),
)


@dataclasses.dataclass
class Coordinator:
    """What a coordinator answers, and what it is asked for."""

    public: bytes
    answer: KeyAnswer
    wanted: list[str] = dataclasses.field(default_factory=list)

    async def send(self, method: str, path: str, **_: Any) -> bytes:  # noqa: ANN401
        assert (method, path) == ("GET", "/encryption?wait_s=7")
        return self.answer.model_dump_json().encode()

    async def download(self, wanted: Download) -> bytes:
        self.wanted.append(wanted.sha256)
        return self.public


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    return bfv.generate()


def coordinator(public: bytes, **changes: object) -> Coordinator:
    statement = KeyStatement(
        key_id="c" * 32,
        session=digest(session.session_of(ASSIGNMENT)),
        public_sha256=hashlib.sha256(public).hexdigest(),
        degree=parameters.DEGREE,
        modulus=parameters.MODULUS,
        length=ENCODING.length,
        minimum=2,
        noisy=0,
        noise_stddev=0.0,
    ).model_copy(update=changes)
    key = SignedKey(
        statement=statement, signature=AUTHORITY.sign(statement.signed_bytes())
    )
    told = Download(url="/key", sha256="d" * 64, size_bytes=len(public))
    answer = KeyAnswer(key=key, public=told, encoding=ENCODING)
    return Coordinator(public, answer)


async def encrypt(
    calls: Coordinator, authority: bytes | None = TRUSTED
) -> bytes | float:
    return await sealing.encrypt(
        cast("Client", calls),
        SIGNER,
        ASSIGNMENT,
        Result(
            manifest=Manifest.model_construct(), body=REPORT.model_dump_json().encode()
        ),
        downloads=calls,
        identity=SIGNER.private,
        authority=authority,
        wait_s=7,
    )


async def test_the_result_is_in_the_ciphertext(keys: tuple[bytes, bytes]) -> None:
    calls = coordinator(keys[1])
    body = await encrypt(calls)
    assert isinstance(body, bytes)
    assert calls.answer.key is not None
    statement = calls.answer.key.statement
    assert calls.wanted == [statement.public_sha256], "not what the coordinator says"
    spki = device_keys.of(SIGNER.private.public_key()).spki
    open_envelope(memoryview(body), spki, statement)
    residues = bfv.decrypt(keys[0], memoryview(body)[HEADER_BYTES:], ENCODING.length)
    _, count, weight, loss, accuracy, clipped = parameters.centred(residues).tolist()
    assert (count, weight, clipped) == (1, 1 << 20, 0)
    assert loss / weight * 64 == pytest.approx(2.0, abs=1e-3)
    assert accuracy / weight == pytest.approx(0.5, abs=1e-3)


async def test_no_metrics_are_told_where_the_authority_adds_noise(
    keys: tuple[bytes, bytes],
) -> None:
    body = await encrypt(coordinator(keys[1], noisy=1, noise_stddev=3.0))
    assert isinstance(body, bytes)
    residues = bfv.decrypt(keys[0], memoryview(body)[HEADER_BYTES:], ENCODING.length)
    assert residues[1:].tolist() == [1, 1 << 20, 0, 0, 0]


@pytest.mark.parametrize(
    "changes", [{"session": "e" * 64}, {"minimum": 1}, {"length": 9}], ids=str
)
async def test_a_key_that_is_not_for_it_is_refused(
    keys: tuple[bytes, bytes], changes: dict[str, object]
) -> None:
    calls = coordinator(keys[1], **changes)
    with pytest.raises(ForgedKey):
        await encrypt(calls)
    assert calls.wanted == []


async def test_another_authority_is_not_trusted(keys: tuple[bytes, bytes]) -> None:
    stranger = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(ForgedKey, match="not signed by the trusted authority"):
        await encrypt(coordinator(keys[1]), stranger)
    with pytest.raises(ForgedKey, match="trusts no key authority"):
        await encrypt(coordinator(keys[1]), None)


async def test_it_waits_while_there_is_no_key() -> None:
    assert await encrypt(Coordinator(b"", KeyAnswer(retry_after_s=1.5))) == 1.5
