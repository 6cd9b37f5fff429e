"""Differential privacy of a task: who is chosen, what a release costs, what is said."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Protocol

from coordinator.domain import privacy
from coordinator.domain.privacy import BudgetSpent, PrivateFold, Release, Terms
from coordinator.domain.rounds import Round
from coordinator.domain.tasks import Task
from coordinator.store import privacy as stored
from coordinator.store import tasks
from coordinator.store.engine import Store, Transaction


class Accounting(Protocol):
    """Works out what releases cost, which only the worker can do."""

    def epsilon(
        self, terms: Terms, releases: int, *, on_wait: Callable[[], None]
    ) -> float:
        """Return epsilon of so many releases; ``on_wait`` is called every second."""
        ...

    def accountant(self, terms: Terms) -> str:
        """Return which accountant works that out."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """A release that the budget allows: how it is folded, and what is entered."""

    fold: PrivateFold
    number: int
    epsilon: float
    accountant: str
    terms: Terms
    last: str | None  #: why the task ends with it; none: the next one is allowed too

    def entry(
        self, task: Task, round_: Round, *, clip_norm: float, now: dt.datetime
    ) -> Release:
        """Return the entry of the ledger.

        Raises:
            ValueError: The task promises nothing.
        """
        if task.plan.privacy is None:
            raise ValueError(f"task {task.id} has no privacy")
        return Release(
            task=task.id,
            number=self.number,
            round_id=round_.id,
            mechanism=task.plan.privacy.mechanism,
            clip_norm=clip_norm,
            noise_multiplier=self.fold.noise_multiplier,
            terms=self.terms,
            epsilon=self.epsilon,
            accountant=self.accountant,
            released_at=now,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyView:
    """A task and its ledger."""

    task: Task
    ledger: tuple[Release, ...]


def choose(tx: Transaction, task: Task, round_: Round) -> None:
    """Flip the coins of a round that has just been opened, if it has any."""
    settings, rate = task.plan.privacy, round_.policy.sampling_rate
    if settings is None or rate is None:
        return
    keys = privacy.RoundKeys(stored.secret(tx, task.id), round_.id)
    devices = stored.candidates(tx, most=settings.population)
    chosen = privacy.choose(keys, devices, rate=rate, cap=round_.policy.goal)
    stored.insert_chosen(tx, round_.id, chosen)


def goal_of(tx: Transaction, round_: Round) -> int:
    """Return with how many results a round has all that may come."""
    if round_.policy.chooses_in_secret:
        return stored.count_chosen(tx, round_.id)
    return round_.policy.goal


def price(
    store: Store,
    accounting: Accounting,
    task: Task,
    round_: Round,
    *,
    on_wait: Callable[[], None],
) -> Priced | None:
    """Say what releasing a round would cost; none where nothing is promised.

    Raises:
        BudgetSpent: More than the plan's budget.
    """
    settings = task.plan.privacy
    if settings is None:
        return None
    secret = store.read(lambda tx: stored.secret(tx, task.id))
    ledger = store.read(lambda tx: stored.ledger(tx, task.id))
    number = len(ledger) + 1
    terms = privacy.terms(task.plan, settings)
    epsilon = accounting.epsilon(terms, number, on_wait=on_wait)
    if epsilon > settings.epsilon:
        raise BudgetSpent(_refusal(number, epsilon, settings.epsilon))
    following = accounting.epsilon(terms, number + 1, on_wait=on_wait)
    return Priced(
        fold=privacy.fold_of_round(
            task.plan,
            settings,
            secret,
            round_id=round_.id,
            released=[release.round_id for release in ledger],
        ),
        number=number,
        epsilon=epsilon,
        accountant=accounting.accountant(terms),
        terms=terms,
        last=(
            _refusal(number + 1, following, settings.epsilon)
            if following > settings.epsilon
            else None
        ),
    )


def look(store: Store, *, task_id: str) -> PrivacyView:
    """Return what a task has spent.

    Raises:
        TaskUnknown: There is none.
    """

    def body(tx: Transaction) -> PrivacyView:
        return PrivacyView(
            task=tasks.get(tx, task_id), ledger=tuple(stored.ledger(tx, task_id))
        )

    return store.read(body)


def _refusal(number: int, epsilon: float, budget: float) -> str:
    return (
        f"release {number} would take epsilon to {epsilon:.4g}, the budget is "
        f"{budget:.4g}"
    )
