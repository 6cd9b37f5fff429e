"""What there is to count and to measure, whichever process did it.

API and workers share nothing but the database, so what any of them did is read from the
history: each look goes on where the last one ended.
"""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Final

from coordinator.domain.events import Happening, Recorded
from coordinator.domain.rounds import Phase, Round
from coordinator.protocol.vocabulary import Kind
from coordinator.store import assignments, events, rounds, workers
from coordinator.store.engine import Store, Transaction
from coordinator.usecases.workers import SILENT_AFTER

#: On Postgres an event may show up behind newer ones: its transaction took so long.
_SETTLED_AFTER: Final = dt.timedelta(seconds=5)
_PAGE: Final = 1_000
_BEGINS: Final = {
    Happening.ROUND_SHARING: Phase.SHARING,
    Happening.ROUND_MASKING: Phase.MASKING,
    Happening.ROUND_UNMASKING: Phase.UNMASKING,
    Happening.ROUND_AGGREGATING: Phase.AGGREGATING,
}
_ENDS: Final = frozenset(
    {*_BEGINS, Happening.ROUND_COMMITTED, Happening.ROUND_ABANDONED}
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnded:
    """A phase of a round that has ended, and how long it took."""

    kind: Kind
    phase: Phase
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """How things stand."""

    open_rounds: Sequence[tuple[Kind, Phase]]
    rounds_unclaimed: int  #: have their results and no worker
    places_leased: int  #: devices that train or evaluate now
    rounds_undeleted: int  #: ended, and their updates still lie on the disk
    workers: int
    worker_silent_s: float | None  #: since any was seen; none: none ever was


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What has happened since the last look, and how things stand."""

    happenings: Sequence[Happening]
    phases: Sequence[PhaseEnded]
    present: Present


class Observer:
    """Reads the history once, from where it stood when the observer started."""

    def __init__(self, store: Store) -> None:
        """Look into ``store``. Not to be used by two threads at a time."""
        self._store = store
        self._seen: int | None = None
        # read, and not handed over yet: a read that fails later must not lose them
        self._happenings: list[Happening] = []
        self._ended: list[PhaseEnded] = []
        #: the phase of each open round, and when it began; none: before the start
        self._phases: dict[int, tuple[Kind, Phase, dt.datetime | None]] = {}

    def start(self) -> None:
        """Begin here: what has happened so far is not news."""
        if self._seen is None:
            self._seen = self._store.read(self._begin)

    def look(self, *, now: dt.datetime) -> News:
        """Return what is new, but for the last five seconds, and how things stand."""
        self.start()
        while page := self._page(now):
            for event in page:
                self._happenings.append(event.happening)
                self._ended += self._follow(event)
                self._seen = event.id
        present = self._store.read(lambda tx: _present(tx, now))
        news = News(happenings=self._happenings, phases=self._ended, present=present)
        self._happenings, self._ended = [], []
        return news

    def _begin(self, tx: Transaction) -> int:
        for round_ in rounds.unfinished(tx):
            is_new = round_.phase is Phase.COLLECTING
            began = round_.opened_at if is_new else None
            self._phases[round_.id] = (round_.kind, round_.phase, began)
        return events.last_id(tx)

    def _page(self, now: dt.datetime) -> list[Recorded]:
        seen = self._seen or 0
        page = self._store.read(lambda tx: events.after(tx, seen, limit=_PAGE))
        settled = now - _SETTLED_AFTER
        count = next((i for i, e in enumerate(page) if e.at > settled), len(page))
        return page[:count]

    def _follow(self, event: Recorded) -> list[PhaseEnded]:
        """Return the phase that an event ended, if it did."""
        if event.round_id is None:
            return []
        if event.happening is Happening.ROUND_OPENED:
            kind = Kind(event.data["kind"])
            self._phases[event.round_id] = (kind, Phase.COLLECTING, event.at)
            return []
        known = self._phases.get(event.round_id)
        if event.happening not in _ENDS or known is None:
            return []
        kind, phase, began = known
        if event.happening in _BEGINS:
            begun = _BEGINS[event.happening]
            self._phases[event.round_id] = (kind, begun, event.at)
        else:
            del self._phases[event.round_id]
        if began is None:
            return []
        seconds = (event.at - began).total_seconds()
        return [PhaseEnded(kind=kind, phase=phase, seconds=seconds)]


def _present(tx: Transaction, now: dt.datetime) -> Present:
    open_ = rounds.unfinished(tx)
    seen = workers.last_seen(tx)
    return Present(
        open_rounds=[(round_.kind, round_.phase) for round_ in open_],
        rounds_unclaimed=sum(_is_unclaimed(round_, now) for round_ in open_),
        places_leased=assignments.count_leased(tx),
        rounds_undeleted=len(rounds.with_undeleted_blobs(tx)),
        workers=workers.count_seen(tx, now - SILENT_AFTER),
        worker_silent_s=None if seen is None else (now - seen).total_seconds(),
    )


def _is_unclaimed(round_: Round, now: dt.datetime) -> bool:
    is_free = round_.owner is None or round_.deadline <= now
    return round_.phase is Phase.AGGREGATING and is_free
