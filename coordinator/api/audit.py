"""Refusals on their way to the audit log: counted here, written once a second.

Whoever only asks to be refused costs no transaction of his own. A process that is
killed loses the count of its last second, and no other decision: those are written in
the transaction that makes them.
"""

import asyncio
import datetime as dt
import logging
from typing import Final

from starlette.concurrency import run_in_threadpool

from coordinator.domain.audit import MOST_SUBJECTS_A_MINUTE, Refusals
from coordinator.store.engine import Store
from coordinator.usecases import access

log = logging.getLogger(__name__)

_EVERY_S: Final = 1.0
#: Kept while the database is away: enough for minutes, and little memory.
_MOST_KEPT: Final = 100 * MOST_SUBJECTS_A_MINUTE
_Kind = tuple[int, str]  # minute, reason


class RefusalCounts:
    """Counts refusals alike of a minute. For one event loop alone."""

    def __init__(self, store: Store) -> None:
        """Count from nothing, for the audit log in ``store``."""
        self._store = store
        self._counts: dict[_Kind, dict[str, Refusals]] = {}
        self._kept = 0
        self._lost = 0
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()

    def note(self, reason: str, subject: str, *, now: dt.datetime) -> None:
        """Count a refusal of somebody; empty: nobody is known."""
        self._add(
            Refusals(reason=reason, subject=subject, times=1, first_at=now, last_at=now)
        )
        self._some.set()

    async def run(self) -> None:
        """Write what was counted, every second, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write what was counted; what cannot be written stays counted."""
        async with self._writing:
            taken = [each for alike in self._counts.values() for each in alike.values()]
            self._counts, self._kept = {}, 0
            self._some.clear()
            if not taken:
                return
            try:
                await run_in_threadpool(access.note_refusals, self._store, taken)
            except self._store.errors as error:
                log.warning("the audit log cannot be written now: %s", error)
                for each in taken:
                    self._add(each)
                self._some.set()
                return
            if self._lost:
                log.error("%d refusals are missing in the audit log", self._lost)
                self._lost = 0

    def _add(self, refusals: Refusals) -> None:
        alike = self._counts.setdefault((refusals.minute, refusals.reason), {})
        known = alike.get(refusals.subject)
        if known is None and len(alike) >= MOST_SUBJECTS_A_MINUTE:
            refusals = refusals.of_nobody()
            known = alike.get(refusals.subject)
        if known is not None:
            alike[refusals.subject] = known.and_more(refusals)
        elif self._kept < _MOST_KEPT:
            alike[refusals.subject] = refusals
            self._kept += 1
        else:
            self._lost += refusals.times
