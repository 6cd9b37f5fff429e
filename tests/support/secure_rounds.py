"""Devices that take the steps of secure aggregation through the use cases, by hand."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from coordinator.api import rendering
from coordinator.domain.rounds import Phase
from coordinator.protocol.encodings import Report
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_secagg import SecAggPlan
from coordinator.protocol.plans import Plan
from coordinator.protocol.secagg import device, session, summands
from coordinator.protocol.secagg.messages import Inbox
from coordinator.protocol.secagg.scrutiny import Policy
from coordinator.usecases import secagg
from coordinator.usecases.check_in import Work
from tests.support.federation import Federation, plan

DEVICES = 6
SIZE = 10  # of the tiny model
CLIP = 8.0
STEP_S = 30.0


def secure(**settings: object) -> Plan:
    """A plan for six devices, of which one may vanish at every step."""
    fields: dict[str, object] = {
        "goal": DEVICES,
        "minimum": 5,
        "secagg": SecAggPlan(clip_norm=CLIP, max_examples=10, step_s=STEP_S),
    }
    return plan(**(fields | settings))  # type: ignore[arg-type] - any fields of a plan


@dataclasses.dataclass
class SecureDevice:
    """A device with something to add to the sum."""

    federation: Federation
    delta: Vector
    report: Report
    work: Work
    state: device.State
    inbox: Inbox | None = None

    @classmethod
    def come(
        cls,
        federation: Federation,
        delta: Sequence[float],
        *,
        examples: int = 10,
        device_id: str | None = None,
    ) -> "SecureDevice":
        """Check in and train."""
        work = federation.lease(device_id)
        told = rendering.assignment(
            work, encodings_known=(), now=federation.clock.now()
        )
        return cls(
            federation=federation,
            delta=np.asarray(delta, np.float32),
            report=Report(examples=examples, train_loss=1.5, train_accuracy=0.5),
            work=work,
            state=device.join(
                session.session_of(told), work.assignment.device_id, None
            ),
        )

    @property
    def names(self) -> dict[str, str]:
        return {
            "device_id": self.work.assignment.device_id,
            "assignment_id": self.work.assignment.id,
        }

    def join(self) -> None:
        secagg.join(
            self.federation.store,
            self.state.announcement,
            **self.names,
            now=self.federation.clock.now(),
        )

    def deal(self) -> None:
        roster = secagg.roster(self.federation.store, **self.names)
        assert roster is not None
        self.state, dealing = device.deal(self.state, roster, Policy())
        secagg.deal(
            self.federation.store,
            dealing,
            **self.names,
            now=self.federation.clock.now(),
        )

    def masked(self) -> bytes:
        self.inbox = self.inbox or secagg.inbox(self.federation.store, **self.names)
        assert self.inbox is not None
        assert self.state.roster is not None
        vector = summands.encode(
            self.delta,
            self.report,
            self.state.roster.manifest.encoding,
            key=bytes(32),
        )
        self.state, body = device.mask(self.state, self.inbox, vector)
        return body

    def send(self) -> None:
        self.federation.submit(self.work, self.masked())

    def reveal(self) -> None:
        survivors = secagg.survivors(self.federation.store, **self.names)
        assert survivors is not None
        self.state, reveal = device.reveal(self.state, survivors, Policy())
        secagg.reveal(
            self.federation.store,
            reveal,
            **self.names,
            now=self.federation.clock.now(),
        )


def gather(
    federation: Federation, count: int = DEVICES, *, examples: Sequence[int] = ()
) -> list[SecureDevice]:
    """Let devices train and join; device ``i`` has the delta ``i + 1, 0, 0, ...``."""
    found = [
        SecureDevice.come(
            federation,
            [float(index + 1), *[0.0] * (SIZE - 1)],
            examples=examples[index] if examples else 10,
        )
        for index in range(count)
    ]
    for each in found:
        each.join()
    return found


def deal(devices: Iterable[SecureDevice]) -> None:
    for each in devices:
        each.deal()


def send(devices: Iterable[SecureDevice]) -> None:
    for each in devices:
        each.send()


def reveal(devices: Iterable[SecureDevice]) -> None:
    """Reveal until no more shares are needed."""
    for each in devices:
        round_ = each.federation.round(each.work.round.id)
        if round_.phase is Phase.UNMASKING:
            each.reveal()
