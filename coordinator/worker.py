"""The worker: a loop that advances what is due, folds and releases.

Nothing but the database says what to do, so any number of workers may run, and one that
dies is replaced by the next: the round it held is taken over when its lease ends.
"""

import datetime as dt
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Final

from coordinator import logs
from coordinator.clock import Clock
from coordinator.domain import gate
from coordinator.domain.privacy import BudgetSpent
from coordinator.store.blobs import STALE_AFTER, BlobLost, BlobStore
from coordinator.store.engine import StaleWrite, Store
from coordinator.store.files import StorageUnavailable
from coordinator.usecases import (
    access,
    encrypted,
    release,
    rounds,
    uploads,
    workers,
)
from coordinator.usecases.encrypted import (
    AuthorityAway,
    AuthorityRefused,
    KeyAuthority,
)
from coordinator.usecases.rounds import Claim

log = logging.getLogger(__name__)

_RENEW_AFTER: Final = dt.timedelta(seconds=5)
_AFTER_FAILURE_S: Final = 1.0
_REST_WITHOUT_ROUNDS: Final = 10
_ASK_AGAIN: Final = dt.timedelta(seconds=1)
#: What somebody mends while the worker waits.
_AWAY: Final[tuple[type[Exception], ...]] = (StorageUnavailable, *Store.errors)


def name_of_this_process() -> str:
    """Return the worker name under which others can tell whether it died."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _died_here(worker: str) -> bool:
    """Return whether ``worker`` was a process of this machine that is no more."""
    host, _, pid = worker.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return int(pid) == os.getpid()  # a number that was given again: to this process


_FORGET_EVERY: Final = dt.timedelta(minutes=1)


class Worker:
    """Keeps rounds moving until it is told to stop."""

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        compute: release.Compute,
        clock: Clock,
        *,
        name: str,
        interval_s: float,
        authority: KeyAuthority | None = None,
    ) -> None:
        """Work under ``name``, looking every ``interval_s`` seconds when idle."""
        self._store = store
        self._blobs = blobs
        self._compute = compute
        self._clock = clock
        self._name = name
        self._interval_s = interval_s
        self._authority = authority
        self._ask_at = clock.now()
        self._beaten = clock.now()
        self._forget_at = clock.now()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        self._look(self._take_over, stop)
        while not stop.is_set():
            self._look(self._step_or_rest, stop)
        self._look(self._leave, stop)

    def _look(
        self, body: Callable[[threading.Event], None], stop: threading.Event
    ) -> None:
        try:
            body(stop)
        except _AWAY as error:
            log.error("worker %s waits: %s", self._name, error)  # noqa: TRY400 - no bug
            stop.wait(_AFTER_FAILURE_S)
        except Exception:  # the edge of the loop
            log.exception("worker %s failed and goes on", self._name)
            stop.wait(_AFTER_FAILURE_S)

    def _take_over(self, _: threading.Event) -> None:
        """Pick up what workers that died here left behind."""
        freed = rounds.free_claims(
            self._store, is_gone=_died_here, now=self._clock.now()
        )
        if freed:
            log.warning("%d rounds of workers that died here are taken over", freed)
        self._beat(starts=True)
        stale = self._clock.now() - STALE_AFTER
        self._blobs.delete_stale_incoming(older_than=stale.timestamp())

    def _leave(self, _: threading.Event) -> None:
        workers.leave(self._store, worker=self._name)

    def _beat(self, *, starts: bool = False) -> None:
        """Say now and then that this worker lives."""
        now = self._clock.now()
        if starts or now - self._beaten >= workers.BEAT_EVERY:
            workers.beat(self._store, worker=self._name, now=now, starts=starts)
            self._beaten = now

    def _step_or_rest(self, stop: threading.Event) -> None:
        self._beat()
        now = self._clock.now()
        outlook = rounds.look(self._store, now=now)
        is_due = outlook.is_due or now >= self._forget_at
        if not (is_due and self.step()):
            # Nothing is urgent where no round is open.
            rests = 1 if outlook.is_open else _REST_WITHOUT_ROUNDS
            stop.wait(self._interval_s * rests)

    def step(self) -> bool:
        """Do what is due now. Returns whether there was anything."""
        advanced = rounds.advance(self._store, now=self._clock.now())
        keyed = self._give_keys()
        claim = rounds.claim(self._store, worker=self._name, now=self._clock.now())
        if claim is not None:
            round_ = claim.round
            with logs.about(worker=self._name, task=round_.task, round=round_.id):
                self._release(claim)
        cleaned = rounds.clean_up(self._store, self._blobs)
        now = self._clock.now()
        if now >= self._forget_at:
            access.forget_nonces(self._store, now=now)
            uploads.sweep(self._store, self._blobs, now=now)
            self._forget_at = now + _FORGET_EVERY
        return bool(advanced or keyed or claim or cleaned)

    def _give_keys(self) -> int:
        """Ask for the keys that rounds need, now and then while there is no answer."""
        now = self._clock.now()
        if now < self._ask_at:
            return 0
        try:
            return encrypted.give_keys(self._store, self._authority, now=now)
        except (AuthorityAway, AuthorityRefused) as error:
            log.error("rounds wait for their keys: %s", error)  # noqa: TRY400 - no bug
            self._ask_at = now + _ASK_AGAIN
            return 0

    def _release(self, claim: Claim) -> None:
        started = renewed = self._clock.now()

        def keep_hold(_: int) -> None:
            nonlocal renewed
            self._beat()
            now = self._clock.now()
            if now - renewed >= _RENEW_AFTER:
                rounds.renew(self._store, claim, worker=self._name, now=now)
                renewed = now

        round_ = claim.round
        try:
            version = release.release(
                self._store,
                self._blobs,
                self._compute,
                claim,
                authority=self._authority,
                on_progress=keep_hold,
                now=self._clock.now,
            )
        except (ArithmeticError, gate.Rejected, BlobLost) as error:
            log.warning("round %d: %s", round_.id, error)
            rounds.give_up(self._store, claim, str(error), now=self._clock.now())
            return
        except BudgetSpent as error:
            log.warning("task %s stops: %s", round_.task, error)
            rounds.stop_spent(self._store, claim, str(error), now=self._clock.now())
            return
        except (StorageUnavailable, AuthorityAway) as error:
            log.error("round %d waits: %s", round_.id, error)  # noqa: TRY400 - no bug
            rounds.hand_back(self._store, claim, str(error), now=self._clock.now())
            return
        except StaleWrite:
            log.warning("round %d was taken over or cancelled", round_.id)
            return
        log.info(
            "round %d (%s %d, attempt %d): %d results, version %s, %.3f s",
            round_.id,
            round_.kind,
            round_.number,
            round_.attempt,
            claim.results,
            version,
            (self._clock.now() - started).total_seconds(),
        )
