"""What a device checks before it deals to a cohort, and before it reveals to it."""

import itertools
from collections.abc import Collection, Sequence
from typing import TypeVar

from pydantic import Field

from coordinator.protocol.manifest import Record
from coordinator.protocol.secagg import graph, keys, parameters
from coordinator.protocol.secagg.messages import (
    CohortManifest,
    Member,
    Roster,
    Session,
    Survivors,
    hashed,
)
from coordinator.protocol.secagg.refusals import (
    ForeignCohort,
    WeakCohort,
    WrongRoster,
    WrongSurvivors,
)

_Ordered = TypeVar("_Ordered", bytes, int)


class Policy(Record):
    """What a device insists on, whatever a coordinator says."""

    min_devices: int = Field(5, ge=2, description="In a cohort, and in a sum.")
    max_devices: int = Field(parameters.MAX_DEVICES, ge=2)
    collusion: float = Field(
        0.05, ge=0, lt=1, description="Share of a cohort that may collude."
    )
    insist_signed: bool = Field(
        False,  # noqa: FBT003 - the default
        description="Whether everybody's keys must be signed.",
    )


def is_rising(items: Sequence[_Ordered]) -> bool:
    """Return whether each item is above the one before."""
    return all(low < high for low, high in itertools.pairwise(items))


def insist_acceptable(
    roster: Roster, session: Session, me: Member, policy: Policy
) -> None:
    """Check that a cohort is the device's, strong enough and what it says it is.

    Args:
        roster: As the coordinator told it.
        session: What the device joined.
        me: The device, as it announced itself.
        policy: What it insists on.

    Raises:
        ForeignCohort: It is of another session, round, attempt, model or plan.
        WeakCohort: It is too small or too large, its threshold too low.
        WrongRoster: The list of keys is not the manifest's, or the own keys are not
            once in it, or the neighbours are others than the list makes them.
        KeysRefused: A neighbour's keys are not signed.
    """
    for name, mine in session:
        theirs = getattr(roster.manifest.session, name)
        if theirs != mine:
            raise ForeignCohort(f"{name} of the cohort is {theirs}, not {mine}")
    _insist_strong(roster.manifest, policy)
    _insist_consistent(roster)
    _insist_own_keys(roster, me)
    if roster.manifest.signed:
        for neighbour in roster.neighbours:
            keys.insist_signed(session, neighbour.member)


def insist_survived(
    roster: Roster, held: Collection[int], survivors: Survivors, policy: Policy
) -> set[int]:
    """Check a list of survivors. Returns it as a set.

    Args:
        roster: The cohort.
        held: Indices of the neighbours whose shares the device has.
        survivors: As the coordinator told them.
        policy: What the device insists on.

    Raises:
        WrongSurvivors: They are too few, doubled, unknown, or without this device.
    """
    manifest, indices = roster.manifest, survivors.indices
    if not is_rising(indices) or any(i >= manifest.devices for i in indices):
        raise WrongSurvivors("the list of survivors holds strangers, or one twice")
    least = max(manifest.minimum, policy.min_devices)
    if len(indices) < least:
        raise WrongSurvivors(f"{len(indices)} devices survived, {least} must")
    alive = {*indices}
    if roster.index not in alive:
        raise WrongSurvivors("this device is not listed among the survivors")
    silent = {each.index for each in roster.neighbours}.difference(held)
    if silent & alive:
        raise WrongSurvivors(f"indices {sorted(silent & alive)} dealt no shares")
    lived = alive.intersection(held)
    if len(lived) < manifest.threshold:
        raise WrongSurvivors(
            f"{len(lived)} neighbours survived, {manifest.threshold} must"
        )
    return alive


def _insist_strong(manifest: CohortManifest, policy: Policy) -> None:
    devices, degree = manifest.devices, manifest.degree
    if not policy.min_devices <= devices <= policy.max_devices:
        raise WeakCohort(
            f"a cohort must have {policy.min_devices} to {policy.max_devices} "
            f"devices, got {devices}"
        )
    if devices > manifest.encoding.max_devices:
        raise WeakCohort(
            f"the encoding is for {manifest.encoding.max_devices} devices, got "
            f"{devices}"
        )
    if policy.insist_signed and not manifest.signed:
        raise WeakCohort("the keys of the cohort are not signed")
    if not degree < devices or (degree % 2 and degree != devices - 1):
        raise WeakCohort(f"{devices} devices cannot have {degree} neighbours each")
    lost = int(policy.collusion * devices)
    if not parameters.is_connected(devices, degree, lost=lost):
        raise WeakCohort(f"{degree} neighbours leave {devices} devices in pieces")
    least = parameters.least_threshold(devices, degree, collusion=policy.collusion)
    if not least <= manifest.threshold <= degree:
        raise WeakCohort(
            f"the threshold must lie between {least} and {degree}, got "
            f"{manifest.threshold}"
        )


def _insist_consistent(roster: Roster) -> None:
    manifest, digests = roster.manifest, roster.digests
    if len(digests) != manifest.devices:
        raise WrongRoster(f"{len(digests)} keys are listed for {manifest.devices}")
    # Rising: so nobody's keys, the own ones among them, are in it twice.
    if not is_rising(digests):
        raise WrongRoster("the list of keys is not in rising order")
    if hashed("roster", *digests).hex() != manifest.roster_sha256:
        raise WrongRoster("the list of keys is not the one that the manifest names")
    if roster.index >= manifest.devices:
        raise WrongRoster(f"no device of {manifest.devices} has index {roster.index}")
    around = graph.neighbours(manifest.roster_sha256, manifest.devices, manifest.degree)
    if tuple(each.index for each in roster.neighbours) != around[roster.index]:
        raise WrongRoster("the neighbours are not those that the list of keys gives")
    for each in roster.neighbours:
        if each.member.digest != digests[each.index]:
            raise WrongRoster(f"the keys of index {each.index} are not the listed ones")


def _insist_own_keys(roster: Roster, me: Member) -> None:
    others = [each.member for each in roster.neighbours]
    if me.device in {member.device for member in others}:
        raise WrongRoster("this device is listed as its own neighbour")
    announcements = [member.announcement for member in (me, *others)]
    public = [each.sharing_key for each in announcements]
    public += [each.masking_key for each in announcements]
    if len({*public}) != len(public):
        raise WrongRoster("two keys of the roster are one and the same")
    if roster.digests[roster.index] != me.digest:
        raise WrongRoster("the own keys are not where the roster says")
