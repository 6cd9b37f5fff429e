"""Rounds whose devices encrypt, with a key authority that is asked by hand."""

import dataclasses
import datetime as dt
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.api import rendering
from coordinator.authority import vault
from coordinator.authority.vault import Vault
from coordinator.domain import privacy as domain_privacy
from coordinator.domain.aggregation import SumLost
from coordinator.domain.errors import (
    AlreadyReported,
    DeviceKeyNeeded,
    EncryptionKeyUnknown,
    EncryptionNeeded,
    NotSecure,
    UnsuitablePlan,
)
from coordinator.domain.rounds import Phase
from coordinator.protocol import device_keys
from coordinator.protocol.encodings import Report
from coordinator.protocol.he import bfv, framing, parameters
from coordinator.protocol.he.messages import (
    IssuedKey,
    KeyRequest,
    MalformedEnvelope,
    Summand,
    seal,
)
from coordinator.protocol.he.parameters import Residues
from coordinator.protocol.plan_he import HePlan
from coordinator.protocol.plan_privacy import PrivacyPlan
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.plans import Plan
from coordinator.protocol.secagg import session, summands
from coordinator.store import he
from coordinator.usecases import diagnosis, encrypted, rounds, tasks
from coordinator.usecases.check_in import Work
from coordinator.usecases.encrypted import AuthorityAway, AuthorityRefused
from tests.support.federation import Federation, plan

SIZE = 10  # of the tiny model
DEVICES = 4
CLIP = 8.0


@dataclasses.dataclass
class Authority:
    """A real one without HTTP, which may be away, and notes what it is asked for."""

    vault: Vault
    federation: Federation
    is_away: bool = False
    asked: list[bytes] = dataclasses.field(default_factory=list)
    signed: int = 0

    def issue(self, request: KeyRequest) -> IssuedKey:
        self._insist_there()
        return self.vault.issue(request, now=self.federation.clock.now())

    def decrypt(
        self,
        key_id: str,
        ciphertext: bytes,
        summands: Sequence[Summand],
        *,
        on_progress: Callable[[int], None],
    ) -> Residues:
        on_progress(0)
        self.asked.append(ciphertext)
        self.signed = len(summands)
        self._insist_there()
        try:
            answer = self.vault.decrypt(key_id, ciphertext, summands)
        except (vault.KeySpent, vault.TooFewSigned, vault.Undecryptable) as error:
            raise AuthorityRefused(str(error)) from error
        return np.frombuffer(answer, np.uint64)

    def _insist_there(self) -> None:
        if self.is_away:
            raise AuthorityAway("it is away")


@pytest.fixture
def authority(federation: Federation, tmp_path: pathlib.Path) -> Authority:
    return Authority(Vault(tmp_path / "authority"), federation)


def encrypting(**settings: object) -> Plan:
    fields: dict[str, object] = {
        "goal": DEVICES,
        "minimum": 2,
        "he": HePlan(clip_norm=CLIP, max_examples=10),
    }
    return plan(**(fields | settings))  # type: ignore[arg-type] - any fields of a plan


class Phone:
    """A device with a key and something to add to the sum."""

    def __init__(self, authority: Authority, number: int) -> None:
        federation = authority.federation
        self.authority = authority
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.federation = federation
        device_id = federation.enrol(device_keys.of(self.key.public_key()))
        self.work: Work = federation.lease(device_id)
        self.delta = np.array([number, *[0.0] * (SIZE - 1)], np.float32)
        self.report = Report(examples=10, train_loss=1.5, train_accuracy=0.5)

    @property
    def names(self) -> dict[str, str]:
        return {
            "device_id": self.work.assignment.device_id,
            "assignment_id": self.work.assignment.id,
        }

    def body(self, ciphertext: bytes | None = None) -> bytes:
        store = self.federation.store
        found = encrypted.key_of(store, **self.names)
        assert found is not None
        told = rendering.assignment(
            self.work, encodings_known=(), now=self.federation.clock.now()
        )
        statement = found.key.insist_for(
            session.session_of(told),
            found.encoding,
            bytes.fromhex(self.authority.vault.public),
        )
        delta = self.delta if found.encoding.size == SIZE else np.zeros(1, np.float32)
        vector = summands.encode(delta, self.report, found.encoding, key=bytes(32))
        if statement.noise_stddev:
            vector[found.encoding.size + 2 :] = 0
        public = encrypted.public_key(store, key_id=statement.key_id)
        numbers = parameters.to_residues(vector)
        return seal(ciphertext or bfv.encrypt(public, numbers), statement, self.key)

    def send(self, body: bytes | None = None) -> None:
        self.federation.submit(self.work, body or self.body())


def begin(
    federation: Federation, authority: Authority, settings: Plan | None = None
) -> list[Phone]:
    """Start a task, get its key, and let devices train."""
    federation.start(settings=settings or encrypting())
    assert give_keys(federation, authority) == 1
    return [Phone(authority, number + 1) for number in range(DEVICES)]


def give_keys(federation: Federation, authority: Authority | None) -> int:
    return encrypted.give_keys(federation.store, authority, now=federation.clock.now())


def moved(federation: Federation) -> list[float]:
    found: list[float] = (federation.weights(1) - federation.weights(0)).tolist()
    return found


def test_the_mean_is_exact_and_what_was_needed_is_deleted(
    federation: Federation, authority: Authority
) -> None:
    phones = begin(federation, authority)
    for phone in phones:
        phone.send()
    claim = federation.must_claim()
    assert federation.release(claim, authority) == 1
    assert moved(federation) == pytest.approx([2.5, *[0.0] * 9], abs=1e-5)
    assert authority.signed == DEVICES
    (view, _) = tasks.list_rounds(
        federation.store, task_id="task", now=federation.clock.now()
    )
    assert view.score is not None
    assert view.score.loss == pytest.approx(1.5, abs=1e-4)
    rounds.clean_up(federation.store, federation.blobs)
    assert federation.rows()["he_keys"] == []
    assert not [name for name in federation.files() if name.startswith("updates/")]


def test_examples_weigh_and_the_scores_of_an_evaluation_are_summed(
    federation: Federation, authority: Authority
) -> None:
    evaluation = EvaluationPlan(every=1, goal=2, minimum=2)
    settings = encrypting(rounds=1, evaluation=evaluation)
    phones = begin(federation, authority, settings)
    for phone, examples in zip(phones, (10, 5, 5, 10), strict=True):
        phone.report = dataclasses.replace(phone.report, examples=examples)
        phone.send()
    assert federation.release(federation.must_claim(), authority) == 1
    assert moved(federation)[0] == pytest.approx((1 + 1 + 1.5 + 4) / 3, abs=1e-5)

    assert give_keys(federation, authority) == 1
    scored = [Phone(authority, 0) for _ in range(2)]
    with pytest.raises(EncryptionNeeded):
        federation.evaluate(scored[0].work)
    for phone in scored:
        phone.send()
    assert federation.release(federation.must_claim(), authority) is None
    (*_, view) = tasks.list_metrics(federation.store, task_id="task")
    assert view.federated is not None
    assert view.federated.devices == 2
    assert view.federated.score.loss == pytest.approx(1.5, abs=1e-4)
    assert view.federated.score.accuracy == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_that_asks_again_asks_for_the_same(
    federation: Federation,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    for phone in begin(federation, authority):
        phone.send()
    claim = federation.must_claim()
    if moment == "before":
        authority.is_away = True
        with pytest.raises(AuthorityAway):
            federation.release(claim, authority)
        authority.is_away = False
    else:  # it answered, and the worker died of it

        def die(*_: object, **__: object) -> None:
            raise OSError("no more")

        with monkeypatch.context() as patched:
            patched.setattr(summands, "decode_whole", die)
            with pytest.raises(OSError, match="no more"):
                federation.release(claim, authority)
    assert federation.release(claim, authority) == 1
    first, second = authority.asked
    assert first == second


def test_the_sum_that_is_asked_for_is_a_file_that_the_doctor_knows(
    federation: Federation, authority: Authority
) -> None:
    for phone in begin(federation, authority):
        phone.send()
    claim = federation.must_claim()
    authority.is_away = True
    with pytest.raises(AuthorityAway):
        federation.release(claim, authority)
    later = federation.clock.now() + dt.timedelta(days=400)
    assert file_findings(federation, later, repair=True) == []
    (name,) = [name for name in federation.files() if "/sum-" in name]
    (federation.folder / "blobs" / name).unlink()
    (told,) = file_findings(federation, later, repair=False)
    assert "the blinded sum of round 1" in told


def file_findings(
    federation: Federation, now: dt.datetime, *, repair: bool
) -> list[str]:
    found = diagnosis.examine(
        federation.store, federation.blobs, now=now, repair=repair
    )
    return [each.what for each in found if "waits for a worker" not in each.what]


def test_a_receipt_is_given_again_after_the_round(
    federation: Federation, authority: Authority
) -> None:
    phones = begin(federation, authority)
    bodies = [phone.body() for phone in phones]
    for phone, body in zip(phones, bodies, strict=True):
        phone.send(body)
    federation.release(federation.must_claim(), authority)
    rounds.clean_up(federation.store, federation.blobs)
    phones[0].send(bodies[0])
    with pytest.raises(AlreadyReported):
        phones[0].send(bodies[1])


def test_a_ciphertext_that_is_none_is_left_out(
    federation: Federation, authority: Authority
) -> None:
    phones = begin(federation, authority)
    for phone in phones[1:]:
        phone.send()
    phones[0].send(phones[0].body(framing.join([b"no ciphertext"])))
    assert federation.release(federation.must_claim(), authority) == 1
    assert moved(federation)[0] == pytest.approx(3.0, abs=1e-5)
    assert authority.signed == DEVICES - 1


def test_too_few_ciphertexts_are_no_sum(
    federation: Federation, authority: Authority
) -> None:
    settings = encrypting(minimum=4)
    phones = begin(federation, authority, settings)
    for phone in phones[1:]:
        phone.send()
    phones[0].send(phones[0].body(framing.join([b"no ciphertext"])))
    with pytest.raises(SumLost, match="3 devices can be added, the minimum is 4"):
        federation.release(federation.must_claim(), authority)
    assert authority.asked == []


def test_a_device_that_lies_about_its_figures_spoils_the_round(
    federation: Federation, authority: Authority
) -> None:
    phones = begin(federation, authority)
    for phone in phones[1:]:
        phone.send()
    found = encrypted.key_of(federation.store, **phones[0].names)
    assert found is not None
    public = encrypted.public_key(federation.store, key_id=found.key.statement.key_id)
    lies = bfv.encrypt(public, np.full(SIZE + 5, 7, np.uint64))
    phones[0].send(phones[0].body(lies))
    with pytest.raises(SumLost, match="one of them lied"):
        federation.release(federation.must_claim(), authority)


def test_a_refusal_of_the_authority_ends_the_round(
    federation: Federation, authority: Authority, tmp_path: pathlib.Path
) -> None:
    for phone in begin(federation, authority):
        phone.send()
    nobody = frozenset({"0" * 64})
    authority.vault = Vault(tmp_path / "authority", roster=nobody)
    with pytest.raises(SumLost, match="is not on the roster"):
        federation.release(federation.must_claim(), authority)


def test_under_privacy_the_authority_adds_the_noise(
    federation: Federation, authority: Authority
) -> None:
    private = PrivacyPlan(
        population=100, delta=1e-5, epsilon=50.0, noise_multiplier=1.0, clip_norm=CLIP
    )
    settings = encrypting(privacy=private, he=HePlan())
    fold = domain_privacy.fold_of_round(
        settings, private, bytes(32), round_id=1, released=()
    )
    assert fold.noise_from == "authority", "and the worker draws none"
    for phone in begin(federation, authority, settings):
        phone.send()
    assert federation.release(federation.must_claim(), authority) == 1
    step = np.array(moved(federation))
    # 1.0 times the clip norm over a goal of 4, for each of ten weights
    assert 0.5 < step[1:].std() < 6
    (view, _) = tasks.list_rounds(
        federation.store, task_id="task", now=federation.clock.now()
    )
    assert view.score is None
    assert len(federation.rows()["releases"]) == 1


def test_rounds_wait_for_their_key_and_get_one(
    federation: Federation, authority: Authority
) -> None:
    federation.start(settings=encrypting())
    assert rounds.look(federation.store, now=federation.clock.now()).is_due
    authority.is_away = True
    with pytest.raises(AuthorityAway):
        give_keys(federation, authority)
    with pytest.raises(AuthorityAway, match="no key authority is configured"):
        give_keys(federation, None)
    phone = Phone(authority, 1)
    assert encrypted.key_of(federation.store, **phone.names) is None
    authority.is_away = False
    assert give_keys(federation, authority) == 1
    assert encrypted.key_of(federation.store, **phone.names) is not None
    assert give_keys(federation, authority) == 0
    assert not rounds.look(federation.store, now=federation.clock.now()).is_due
    assert "round_keyed" in federation.happenings()


def test_results_in_the_clear_or_of_others_are_refused(
    federation: Federation, authority: Authority
) -> None:
    first, second, *_ = begin(federation, authority)
    before = federation.state()
    for bad in (b"x" * 200, second.body(), first.body()[:-1], first.body() + b"x"):
        with pytest.raises(MalformedEnvelope):
            first.send(bad)
    assert federation.state() == before


def test_a_device_without_a_key_is_told_so(
    federation: Federation, authority: Authority
) -> None:
    federation.start(settings=encrypting())
    give_keys(federation, authority)
    work = federation.lease()
    with pytest.raises(DeviceKeyNeeded, match="results are signed"):
        encrypted.key_of(
            federation.store,
            device_id=work.assignment.device_id,
            assignment_id=work.assignment.id,
        )


def test_other_rounds_have_no_key(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    with pytest.raises(NotSecure):
        encrypted.key_of(
            federation.store,
            device_id=work.assignment.device_id,
            assignment_id=work.assignment.id,
        )
    with pytest.raises(EncryptionKeyUnknown):
        encrypted.public_key(federation.store, key_id="0" * 32)


def test_a_coordinator_without_an_authority_refuses_the_task(
    federation: Federation,
) -> None:
    federation.register()
    with pytest.raises(UnsuitablePlan, match="he needs a key authority"):
        tasks.create(
            federation.store,
            federation.blobs,
            task_id="task",
            plan=encrypting(),
            now=federation.clock.now(),
        )


def test_the_key_goes_when_the_round_is_abandoned(
    federation: Federation, authority: Authority
) -> None:
    begin(federation, authority)
    federation.clock.advance(121)
    federation.advance()
    assert federation.phases()[0] is Phase.ABANDONED
    rounds.clean_up(federation.store, federation.blobs)
    kept = federation.store.read(lambda tx: he.find(tx, federation.attempts()[0].id))
    assert kept is None
