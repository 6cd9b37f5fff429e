"""Many at once: never a place too many, and every result counted once."""

import collections
import datetime as dt
import functools
import itertools
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from coordinator.domain.errors import (
    AlreadyReported,
    BetweenRounds,
    DomainError,
    LeaseLapsed,
)
from coordinator.domain.rounds import Phase, Round
from coordinator.domain.tasks import Status
from coordinator.protocol.digests import sha256_hex
from coordinator.protocol.plan_rounds import AsynchronousPlan
from coordinator.protocol.vocabulary import WaitReason
from coordinator.store import rounds
from coordinator.store.engine import StaleWrite, Store, Transaction
from coordinator.usecases import participation, tasks
from coordinator.usecases import rounds as worker_rounds
from coordinator.usecases.check_in import Work
from tests.support.federation import Federation, plan
from tests.support.models import update_body
from tests.support.races import THREADS, at_once

T = TypeVar("T")


def test_no_more_places_than_allowed(federation: Federation) -> None:
    federation.start(settings=plan(goal=4, over_select=0.25))
    devices = [federation.enrol() for _ in range(THREADS)]

    answers = at_once(
        [functools.partial(federation.check_in, device) for device in devices]
    )

    works = [answer for answer in answers if isinstance(answer, Work)]
    assert len(works) == 5
    assert len({work.assignment.id for work in works}) == 5
    assert answers.count(WaitReason.ROUND_FULL) == THREADS - 5
    assert federation.counts(works[0].round.id) == (5, 0, 0, 0)


def test_one_device_that_asks_many_times_holds_one_place(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=4))
    device = federation.enrol()

    answers = at_once([lambda: federation.check_in(device) for _ in range(THREADS)])

    works = [answer for answer in answers if isinstance(answer, Work)]
    assert len(works) == THREADS
    assert len({work.assignment.id for work in works}) == 1
    assert federation.counts(works[0].round.id) == (1, 0, 0, 0)


def test_the_goal_is_reached_once(federation: Federation) -> None:
    federation.start(settings=plan(goal=4, over_select=3))
    works = [federation.lease() for _ in range(THREADS)]

    answers = at_once(
        [
            functools.partial(
                federation.submit, work, update_body([float(number)] * 10)
            )
            for number, work in enumerate(works)
        ]
    )

    outcomes = collections.Counter(type(answer).__name__ for answer in answers)
    assert outcomes == {"Accepted": 4, "RoundClosed": THREADS - 4}
    assert federation.phases() == [Phase.AGGREGATING]
    assert federation.happenings().count("round_aggregating") == 1
    assert len(federation.must_claim().updates) == 4
    # What was refused left nothing behind.
    updates = [name for name in federation.files() if name.startswith("updates/")]
    assert len(updates) == 4
    assert not [name for name in federation.files() if name.startswith("incoming/")]


def test_one_update_that_is_sent_many_times_counts_once(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=4))
    work = federation.lease()
    body = update_body([1.0] * 10)

    answers = at_once([lambda: federation.submit(work, body) for _ in range(THREADS)])

    assert len(set(answers)) == 1
    assert federation.counts(work.round.id) == (0, 1, 0, 0)
    assert federation.happenings().count("result_accepted") == 1
    (name,) = (name for name in federation.files() if name.startswith("updates/"))
    assert federation.files()[name] == body


def test_of_many_bodies_of_one_assignment_one_counts(federation: Federation) -> None:
    federation.start(settings=plan(goal=4))
    work = federation.lease()
    bodies = [update_body([float(number)] * 10) for number in range(THREADS)]

    answers = at_once(
        [functools.partial(federation.submit, work, body) for body in bodies]
    )

    refused = [answer for answer in answers if isinstance(answer, AlreadyReported)]
    (winner,) = (index for index, answer in enumerate(answers) if answer not in refused)
    assert len(refused) == THREADS - 1
    (name,) = (name for name in federation.files() if name.startswith("updates/"))
    assert federation.files()[name] == bodies[winner]


def test_one_worker_gets_the_round(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()

    claims = at_once(
        [
            functools.partial(federation.claim, f"worker-{number}")
            for number in range(THREADS)
        ]
    )

    (claim,) = (claim for claim in claims if claim is not None)
    assert not isinstance(claim, DomainError)
    assert claim.round.claims == 1
    assert federation.happenings().count("round_claimed") == 1


def test_many_workers_end_a_round_once(federation: Federation) -> None:
    federation.start(settings=plan(goal=4, minimum=2))
    federation.lease()
    federation.clock.advance(120)

    changed = at_once([federation.advance for _ in range(THREADS)])

    assert sum(count for count in changed if isinstance(count, int)) == 2
    assert federation.phases() == [Phase.ABANDONED, Phase.COLLECTING]
    assert federation.happenings().count("round_abandoned") == 1
    assert federation.happenings().count("lease_lapsed") == 1


def test_whole_rounds_go_through_with_everybody_at_once(
    federation: Federation,
) -> None:
    goal, numbers = 8, itertools.count()
    federation.start(settings=plan(goal=goal, rounds=2))
    start = federation.weights(0)
    devices = [federation.enrol() for _ in range(THREADS)]

    def take_part(device: str) -> bool:
        answer = federation.check_in(device)
        if not isinstance(answer, Work):
            return False
        body = update_body([1.0] * 10, examples=1 + next(numbers))
        federation.submit(answer, body)
        return True

    for number in (1, 2):
        took_part = at_once(
            [functools.partial(take_part, device) for device in devices]
        )
        assert took_part.count(True) == goal
        assert federation.release(federation.must_claim()) == number

    # Every delta is one, so is their mean, whatever the weights.
    expected = start + 1 + 1
    assert federation.weights(2).tolist() == expected.tolist()


def test_updates_that_meet_the_end_of_a_round_land_once_in_the_next(
    federation: Federation,
) -> None:
    goal, count = 3, 5
    federation.start(
        settings=plan(
            goal=goal,
            rounds=count,
            asynchronous=AsynchronousPlan(concurrency=THREADS - 1),
        )
    )
    works = [federation.lease() for _ in range(THREADS - 1)]
    folded: list[str] = []
    is_over = threading.Event()

    def report(work: Work, body: bytes) -> str:
        while True:
            try:
                return federation.submit(work, body).update.sha256
            except BetweenRounds:
                if is_over.is_set():  # nobody opens a round any more
                    raise

    def release() -> str:
        try:
            while federation.task().status is Status.RUNNING:
                # Not the federation's, which insists that a look before found it.
                claim = worker_rounds.claim(
                    federation.store, worker="worker", now=federation.clock.now()
                )
                if claim is not None:
                    folded.extend(update.sha256 for update in claim.updates)
                    federation.release(claim)
        finally:
            is_over.set()
        return "released"

    reports = [
        functools.partial(report, work, update_body([float(number)] * 10))
        for number, work in enumerate(works)
    ]
    *accepted, _ = at_once([*reports, release])

    assert federation.phases() == [Phase.COMMITTED] * count
    assert sorted(map(str, accepted)) == sorted(folded)
    assert len(set(folded)) == goal * count


class Interrupted(Store):
    """A store before whose next transaction something else happens."""

    def __init__(self, url: str) -> None:
        super().__init__(url, durable=False)
        self.before: Callable[[], None] | None = None

    def run(self, name: str, body: Callable[[Transaction], T]) -> T:
        before, self.before = self.before, None
        if before is not None:
            before()
        return super().run(name, body)


def test_a_late_retry_does_not_take_the_accepted_body_away(
    federation: Federation, database_url: str
) -> None:
    """A body that came in time waits for the database while its retry is refused."""
    federation.start(settings=plan(goal=1))
    work = federation.lease()
    body = update_body([1.0] * 10)
    arrived = federation.clock.now()
    expected = participation.expect_update(
        federation.store,
        device_id=work.assignment.device_id,
        assignment_id=work.assignment.id,
        now=arrived,
    )

    def submit(store: Store, now: dt.datetime) -> participation.Accepted:
        incoming = federation.blobs.new_incoming()
        incoming.write_bytes(body)
        return participation.submit_update(
            store,
            federation.blobs,
            expected,
            participation.Sent(
                path=incoming, content_digest=sha256_hex(body), coding="identity"
            ),
            device_id=work.assignment.device_id,
            assignment_id=work.assignment.id,
            now=now,
        )

    def retry_too_late() -> None:
        with pytest.raises(LeaseLapsed):
            submit(federation.store, arrived + dt.timedelta(seconds=60))

    waiting = Interrupted(database_url)
    waiting.before = retry_too_late
    accepted = submit(waiting, arrived)
    waiting.close()

    assert federation.files().get(accepted.update.blob) == body
    assert federation.release(federation.must_claim()) == 1


@pytest.mark.parametrize("number", range(5))
def test_a_release_and_a_rollback_leave_one_round_on_the_tasks_version(
    federation: Federation, number: int
) -> None:
    federation.start(settings=plan(goal=1, rounds=100))
    for _ in range(number + 1):
        federation.take_part()
        federation.release(federation.must_claim())
    federation.take_part()
    claim = federation.must_claim()

    def release() -> object:
        try:
            return federation.release(claim)
        except StaleWrite:
            return None

    def roll_back() -> object:
        return tasks.roll_back(
            federation.store, task_id="task", number=0, now=federation.clock.now()
        )

    published, rolled_back = at_once([release, roll_back])

    assert not isinstance(rolled_back, DomainError)
    # Whoever was first, the operator has the last word.
    assert published in {None, number + 2}
    assert federation.task().version == 0
    (open_,) = [r for r in federation.attempts() if not r.is_terminal]
    assert (open_.phase, open_.base_version) == (Phase.COLLECTING, 0)


@pytest.mark.parametrize(
    "database_url",
    [pytest.param("postgres", marks=pytest.mark.postgres)],
    indirect=True,
)
def test_a_round_that_is_released_under_a_rollback_is_looked_at_again(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()
    federation.release(federation.must_claim())
    federation.take_part()
    claim = federation.must_claim()
    look = rounds.unfinished
    waiting = [claim]

    def look_and_be_overtaken(tx: Transaction, task: str | None = None) -> list[Round]:
        found = look(tx, task)
        while tx.name == "roll_back" and waiting:
            federation.release(waiting.pop())
        return found

    monkeypatch.setattr(rounds, "unfinished", look_and_be_overtaken)

    tasks.roll_back(
        federation.store, task_id="task", number=0, now=federation.clock.now()
    )

    first, second, third, fourth = federation.attempts()
    assert (second.phase, second.result_version) == (Phase.COMMITTED, 2)
    assert (third.phase, third.base_version) == (Phase.ABANDONED, 2)
    assert (fourth.number, fourth.base_version) == (3, 0)
    assert (first.phase, federation.task().version) == (Phase.COMMITTED, 0)
