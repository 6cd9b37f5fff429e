"""What a task under differential privacy promises, in words that one can check.

Epsilon alone says little: it holds for a unit, an adjacency, somebody who looks, and
under assumptions. All of that is stated with it, and what it does not cover.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from coordinator.domain.privacy import Release, terms
from coordinator.protocol.plans import Plan

_UNIT: Final = (
    "one enrolled device with all of its examples: not a person, who may have several, "
    "and not a single example"
)
_ADJACENCY: Final = (
    "zero-out: the same devices enrol and take part, and one of them sends nothing but "
    "zeros"
)
_TRUSTED: Final = (
    "the coordinator with its database and its operators: it sees every update in the "
    "clear, draws the noise and keeps the task's secret until the task has ended"
)
_OBSERVER: Final = (
    "anybody who sees every published version, but nothing else of the coordinator"
)
_BOUND: Final = (
    "every update is clipped by the coordinator, and the sum is divided by a constant",
    "each enrolled device is another one: who enrols twice loses up to twice as much",
    "devices drop out for reasons that do not depend on other devices' examples",
)
_SUMMED_BOUND: Final = (
    "every device clips its own update: software that does not adds what it likes",
    *_BOUND[1:],
)
_UNSEEN: Final = (
    "nobody learns who took part in a round: coins decide it, and neither the API nor "
    "the events name them, but who reads the database, the logs or the network may"
)
_NOT_COVERED: Final = (
    "federated evaluation, and going back to an older version because of it",
    "who takes part, when, and how many: counts of a round, its times, bytes sent",
    "whether a round was abandoned for want of updates",
    "settings that were chosen by trying them on these devices",
    "other tasks that the same devices take part in: their epsilons add up",
)
_WITHHELD: Final = (
    "training loss, accuracy and number of examples of every device: not kept",
    "lengths of updates",
)
_UNSEEN_UPDATES: Final = (
    "updates of single devices, from the coordinator too: it learns sums of at least "
    "{minimum} devices, as long as no more than a share of {collusion:g} of a cohort "
    "works with it and it invents no devices"
)
_ENCRYPTED_UPDATES: Final = (
    "updates of single devices, from the coordinator too: they are encrypted, and the "
    "key authority decrypts one blinded sum of a round, of at least {minimum} devices; "
    "as long as the coordinator runs this code and does not work with the authority"
)
_AUTHORITY_TRUSTED: Final = (
    "the key authority, to add the noise and not to work with the coordinator; it sees "
    "blinded sums. The coordinator, to have sums decrypted and no single update; it "
    "sees noisy sums"
)
_TRUSTED_WITH_SUMS: Final = (
    "the coordinator with its database and its operators: it sees the sums of cohorts "
    "without noise, draws the noise and keeps the task's secret until the task has "
    "ended"
)
_TRUSTED_WITH_NOISY_SUMS: Final = (
    "devices, to clip and to add their part of the noise: every sum has all of it from "
    "{honest} devices; the coordinator sees noisy sums alone, as long as it works with "
    "no more than a share of {collusion:g} of a cohort and invents no devices"
)
_TRUSTED_WITH_NOTHING: Final = (
    "nobody but the device itself, which clips its update and adds noise to it"
)
_COORDINATOR_TOO: Final = (
    "the coordinator, and anybody who sees every published version"
)
_SEEN_IN_VAIN: Final = (
    "rounds that were abandoned after devices had sent what they trained: the "
    "coordinator may have seen noise on it that no release pays for"
)
_UNPROTECTED: Final = "everything: this task has no differential privacy"
_SUMS_TELL: Final = "what sums and versions tell: this task has no differential privacy"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What can be said of a task's privacy now."""

    mechanism: str
    epsilon: float | None  #: of all releases so far; none: there is no bound
    delta: float | None
    budget: float | None  #: epsilon that no release passes
    unit: str | None = None
    adjacency: str | None = None
    trusted: str | None = None
    observer: str | None = None
    accountant: str | None = None  #: none before the first release
    assumptions: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return it as text, a fact a line."""
        facts = [f"mechanism: {self.mechanism}"]
        if self.epsilon is not None:
            facts.append(
                f"epsilon {self.epsilon:.4g} at delta {self.delta:.3g}, "
                f"of a budget of {self.budget:.4g}"
            )
        singles = ("unit", "adjacency", "trusted", "observer", "accountant")
        facts += [
            f"{name}: {value}"
            for name in singles
            if (value := getattr(self, name)) is not None
        ]
        for name, values in (
            ("assumes", self.assumptions),
            ("withheld", self.withheld),
            ("not covered", self.not_covered),
        ):
            facts += [f"{name}: {value}" for value in values]
        return facts


def of(plan: Plan, ledger: Sequence[Release]) -> Statement:
    """Say what a task has spent, and what that means.

    Args:
        plan: The task's.
        ledger: Its releases, oldest first.
    """
    privacy, summed = plan.privacy, _unseen(plan)
    if privacy is None:
        return Statement(
            mechanism="off",
            epsilon=None,
            delta=None,
            budget=None,
            withheld=summed,
            not_covered=(_SUMS_TELL if summed else _UNPROTECTED,),
        )
    by_coin = privacy.sampling == "poisson"
    by_devices = privacy.mechanism in {"distributed_gaussian", "local_gaussian"}
    covers_coordinator = by_devices or plan.he is not None
    clipped_by_device = summed or privacy.mechanism == "local_gaussian"
    return Statement(
        mechanism=privacy.mechanism,
        epsilon=ledger[-1].epsilon if ledger else 0.0,
        delta=privacy.delta,
        budget=privacy.epsilon,
        unit=_UNIT,
        adjacency=_ADJACENCY,
        trusted=_trusted(plan),
        observer=_COORDINATOR_TOO if covers_coordinator else _OBSERVER,
        accountant=ledger[-1].accountant if ledger else None,
        assumptions=(
            _participation(plan, len(ledger)),
            *(_SUMMED_BOUND if clipped_by_device else _BOUND),
            *((_UNSEEN,) if by_coin else ()),
        ),
        withheld=(*summed, *_WITHHELD),
        not_covered=(*_NOT_COVERED, *((_SEEN_IN_VAIN,) if covers_coordinator else ())),
    )


def _trusted(plan: Plan) -> str:
    """Say who sees what no noise covers, and who adds it."""
    privacy, secagg = plan.privacy, plan.secagg
    if privacy is not None and privacy.mechanism == "local_gaussian":
        return _TRUSTED_WITH_NOTHING
    if plan.he is not None:
        return _AUTHORITY_TRUSTED
    if privacy is None or secagg is None:
        return _TRUSTED
    if privacy.mechanism != "distributed_gaussian":
        return _TRUSTED_WITH_SUMS
    return _TRUSTED_WITH_NOISY_SUMS.format(
        honest=secagg.honest(plan.round.goal), collusion=secagg.collusion
    )


def _unseen(plan: Plan) -> tuple[str, ...]:
    """Say what sums keep from the coordinator, where it sees nothing else."""
    if plan.he is not None:
        return (_ENCRYPTED_UPDATES.format(minimum=plan.he.minimum),)
    secagg = plan.secagg
    if secagg is None:
        return ()
    text = _UNSEEN_UPDATES.format(
        minimum=secagg.cohort_minimum, collusion=secagg.collusion
    )
    return (text,)


def _participation(plan: Plan, releases: int) -> str:
    privacy = plan.privacy
    if privacy is None:
        raise ValueError("the plan has no privacy")
    if privacy.sampling == "poisson":
        return (
            f"in each round a secret coin chooses each of at most {privacy.population} "
            f"devices with chance {privacy.sampling_rate:.4g}, and chance cuts them to "
            f"{privacy.most_chosen}"
        )
    most = terms(plan, privacy).participations(releases)
    return (
        f"one device was in at most {most} of {releases} releases, which the "
        "coordinator insists on; nothing is claimed of chance"
    )
