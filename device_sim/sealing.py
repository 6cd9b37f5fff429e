"""A device encrypts its result with the key of its round, which it checks first."""

import asyncio
import os
from typing import Protocol

from coordinator.protocol.device_keys import PrivateKey
from coordinator.protocol.he import parameters
from coordinator.protocol.he.messages import (
    ForgedKey,
    KeyAnswer,
    KeyStatement,
    seal,
)
from coordinator.protocol.messages import Assignment, Download
from coordinator.protocol.secagg import session
from coordinator.protocol.secagg.masks import Words
from coordinator.protocol.secagg.summands import Encoding
from device_sim import client
from device_sim.identity import Credential
from device_sim.secure import Result


class Downloads(Protocol):
    """Where immutable bytes come from."""

    async def download(self, wanted: Download) -> bytes:
        """Return verified bytes."""
        ...


async def encrypt(
    calls: client.Client,
    credential: Credential,
    assignment: Assignment,
    result: Result,
    *,
    downloads: Downloads,
    identity: PrivateKey | None,
    authority: bytes | None,
    wait_s: float,
) -> bytes | float:
    """Return the body to send, or seconds to wait until the round has its key.

    Args:
        calls: The coordinator.
        credential: Proves who the device is.
        assignment: Whose result it is.
        result: What to encrypt.
        downloads: Where the public key comes from.
        identity: The device's key.
        authority: Public key of the authority that the device trusts, 32 bytes.
        wait_s: Seconds that the coordinator may hold the answer back.

    Raises:
        ForgedKey: The key is not the trusted authority's, or not for this.
        Refused, Unreachable, UnexpectedAnswer, CorruptDownload: As their names say.
    """
    if assignment.encryption is None:
        raise ValueError("the assignment's round takes results in the clear")
    if authority is None or identity is None:
        raise ForgedKey("this device trusts no key authority, or has no key to sign")
    path = f"{assignment.encryption.path}?wait_s={wait_s:g}"
    answer = client.parse(
        KeyAnswer, await calls.send("GET", path, credential=credential)
    )
    key, public, encoding = answer.key, answer.public, answer.encoding
    if key is None or public is None or encoding is None:
        return answer.retry_after_s or 0.0
    statement = key.insist_for(session.session_of(assignment), encoding, authority)
    public_key = await downloads.download(
        public.model_copy(update={"sha256": statement.public_sha256})
    )

    def work() -> bytes:
        # TenSEAL is loaded where it is needed, and nowhere else.
        from coordinator.protocol.he import bfv  # noqa: PLC0415

        vector = result.vector(assignment.kind, encoding, os.urandom(32))
        _leave_out(vector, encoding, statement)
        ciphertext = bfv.encrypt(public_key, parameters.to_residues(vector))
        return seal(ciphertext, statement, identity)

    return await asyncio.to_thread(work)


def _leave_out(vector: Words, encoding: Encoding, statement: KeyStatement) -> None:
    """Leave metrics out where the sum gets noise: none would cover them."""
    if statement.noise_stddev:
        vector[encoding.size + 2 :] = 0
