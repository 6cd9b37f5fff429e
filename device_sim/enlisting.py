"""Makes the devices of a federation, each with its shard and its connection."""

from collections.abc import Mapping

from device_sim import attacks, behaviour, cache, trainer
from device_sim.connector import Connector
from device_sim.data import Federation
from device_sim.participant import LONG_POLL_S, Participant


async def enlist(
    federation: Federation,
    *,
    connector: Connector,
    library: cache.Library | None,
    trainers: trainer.TrainerPool,
    habits: behaviour.Behaviour,
    attackers: Mapping[int, attacks.Attack],
    waits_there: bool,
    enrolment_token: str | None,
    authority: bytes | None,
) -> list[Participant]:
    """Return a participant for each shard.

    Args:
        federation: The shards.
        connector: Makes each device's own client.
        library: What all download through; None: each for itself.
        trainers: What all train with.
        habits: Who comes and who vanishes.
        attackers: Who lies, and how.
        waits_there: Whether devices wait for work at the coordinator.
        enrolment_token: What lets them enrol.
        authority: Public key of the key authority that they trust.
    """
    participants = []
    for index, honest in enumerate(federation.shards):
        own = library or cache.Library(cache.DownloadCache(await connector.client()))
        attack = attackers.get(index)
        participants.append(
            Participant(
                index=index,
                shard=honest
                if attack is None
                else attack.falsified(honest, classes=federation.classes),
                calls=await connector.client(habits.network(index)),
                library=own,
                trainers=trainers,
                habits=habits,
                tamper=None if attack is None else attack.tampered,
                wait_s=LONG_POLL_S if waits_there else 0.0,
                enrolment_token=enrolment_token,
                authority=authority,
            )
        )
    return participants
