"""A cohort, as the coordinator forms and keeps it."""

import functools
from collections.abc import Iterable

from coordinator.protocol.manifest import Record
from coordinator.protocol.secagg import graph, keys
from coordinator.protocol.secagg.fixed_point import Encoding
from coordinator.protocol.secagg.messages import (
    Announcement,
    CohortManifest,
    Member,
    Neighbour,
    Roster,
    Session,
    hashed,
)
from coordinator.protocol.secagg.parameters import Parameters
from coordinator.protocol.secagg.refusals import UnsuitableCohort


def admit(
    session: Session, device: str, identity: str | None, announcement: Announcement
) -> Member:
    """Check a device's keys where it joins.

    Args:
        session: What it joins.
        device: Its id.
        identity: The device key that it enrolled with, base64 of the DER.
        announcement: What it posted.

    Raises:
        KeysRefused: The keys are unusable, or its identity did not sign them.
    """
    member = Member(device=device, identity=identity, announcement=announcement)
    keys.insist_usable(announcement)
    if identity is not None:
        keys.insist_signed(session, member)
    return member


class Cohort(Record):
    """Devices whose vectors are summed, and what they agreed on. Holds no secret."""

    manifest: CohortManifest
    members: tuple[Member, ...]  #: by index

    @functools.cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """Indices of each member's neighbours, in rising order."""
        manifest = self.manifest
        return graph.neighbours(
            manifest.roster_sha256, manifest.devices, manifest.degree
        )

    @functools.cached_property
    def indices(self) -> dict[str, int]:
        """Each device's index, by its id."""
        return {member.device: index for index, member in enumerate(self.members)}

    def roster(self, index: int) -> Roster:
        """Return what one device is told of the cohort."""
        return Roster(
            manifest=self.manifest,
            index=index,
            digests=tuple(member.digest for member in self.members),
            neighbours=tuple(
                Neighbour(index=other, member=self.members[other])
                for other in self.neighbours[index]
            ),
        )


def form(
    cohort: str,
    session: Session,
    members: Iterable[Member],
    *,
    parameters: Parameters,
    encoding: Encoding,
    minimum: int,
) -> Cohort:
    """Make a cohort of those who joined.

    Args:
        cohort: Its id.
        session: What they joined.
        members: As admitted, in any order: their index is theirs by their keys.
        parameters: For so many devices.
        encoding: How they write their vectors.
        minimum: Survivors that a sum must be of.

    Raises:
        UnsuitableCohort: A device or a key is in it twice, or the encoding or the
            minimum is for fewer devices.
    """
    ordered = sorted(members, key=lambda member: member.digest)
    public = [
        key
        for member in ordered
        for key in (member.announcement.sharing_key, member.announcement.masking_key)
    ]
    if len({member.device for member in ordered}) < len(ordered):
        raise UnsuitableCohort("a device is in the cohort twice")
    if len({*public}) < len(public):
        raise UnsuitableCohort("a key is in the cohort twice")
    if len(ordered) > encoding.max_devices:
        raise UnsuitableCohort(
            f"the encoding is for {encoding.max_devices} devices, got {len(ordered)}"
        )
    if minimum > len(ordered):
        raise UnsuitableCohort(
            f"{minimum} of {len(ordered)} devices cannot be asked to survive"
        )
    return Cohort(
        manifest=CohortManifest(
            cohort=cohort,
            session=session,
            devices=len(ordered),
            minimum=minimum,
            degree=parameters.degree,
            threshold=parameters.threshold,
            signed=all(member.identity is not None for member in ordered),
            encoding=encoding,
            roster_sha256=hashed(
                "roster", *(member.digest for member in ordered)
            ).hex(),
        ),
        members=tuple(ordered),
    )
