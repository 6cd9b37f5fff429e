"""Fuzzers of secure aggregation: what devices send, and what they are told."""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydantic

from coordinator.protocol.manifest import Record
from coordinator.protocol.secagg import cohort, device, scrutiny, stages
from coordinator.protocol.secagg.messages import (
    Announcement,
    Dealing,
    Inbox,
    Reveal,
    Roster,
    Survivors,
)
from coordinator.protocol.secagg.refusals import SecAggRefused
from tests.fuzz import mutations
from tests.fuzz.target import Target

_PATH = pathlib.Path(__file__).parents[1] / "protocol" / "vectors" / "secagg.json"
_INDEX = 0
_EVERYBODY = range(6)
_POLICY = scrutiny.Policy()


@functools.cache
def _written() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(_PATH.read_text())
    return written


@functools.cache
def _cohort() -> cohort.Cohort:
    return cohort.Cohort.model_validate_json(json.dumps(_written()["cohort"]))


def _survivors() -> Survivors:
    return Survivors.model_validate(_written()["survivors"])


@functools.cache
def _states() -> tuple[device.State, device.State, device.State]:
    """A device that has joined, that has dealt, and that has masked."""
    written = _written()["devices"][_INDEX]
    dealt = device.State.model_validate_json(json.dumps(written["state"]))
    fresh = {"own_mask": None, "roster": None, "dealing": None}
    inbox = Inbox.model_validate_json(json.dumps(written["inbox"]))
    masked, _ = device.mask(dealt, inbox, _vector())
    return dealt.model_copy(update=fresh), dealt, masked


def _vector() -> np.ndarray:
    return np.array(_written()["devices"][_INDEX]["vector"], np.uint32)


def _take(data: bytes) -> None:
    """Take a message as the coordinator does; the first byte says which."""
    formed, body = _cohort(), data[1:]
    member = formed.members[_INDEX]
    try:
        match data[:1]:
            case b"a":
                sent = Announcement.model_validate_json(body)
                session = formed.manifest.session
                admitted = cohort.admit(session, member.device, member.identity, sent)
                assert admitted == member  # nobody else signs with its key
            case b"d":
                dealing = Dealing.model_validate_json(body)
                stages.check_dealing(formed, _INDEX, dealing)
                assert len(dealing.shares) == formed.manifest.degree
            case b"r":
                reveal = Reveal.model_validate_json(body)
                survivors = _survivors().indices
                stages.check_reveal(formed, _EVERYBODY, survivors, _INDEX, reveal)
                assert len({share.peer for share in reveal.shares}) == 5
    except (pydantic.ValidationError, SecAggRefused):
        return


def _hear(data: bytes) -> None:
    """Hear a message as the device does; the first byte says which."""
    joined, dealt, masked = _states()
    written, body = _written()["devices"][_INDEX], data[1:]
    try:
        match data[:1]:
            case b"R":
                roster = Roster.model_validate_json(body)
                device.deal(joined, roster, _POLICY)
                assert roster.manifest.session == joined.session
                # Fewer of them may be told than here, but nobody else's keys.
                members = _cohort().members
                for each in roster.neighbours:
                    assert each.member == members[each.index]
            case b"I":
                inbox = Inbox.model_validate_json(body)
                device.mask(dealt, inbox, _vector())
                known = Inbox.model_validate_json(json.dumps(written["inbox"]))
                assert {*inbox.shares} <= {*known.shares}
            case b"S":
                survivors = Survivors.model_validate_json(body)
                _, reveal = device.reveal(masked, survivors, _POLICY)
                assert _INDEX in survivors.indices
                assert len({share.peer for share in reveal.shares}) == 5
    except (pydantic.ValidationError, SecAggRefused):
        return


def _labelled(label: bytes, record: Record) -> bytes:
    return label + record.model_dump_json().encode()


def _sent() -> Sequence[bytes]:
    written = _written()["devices"][_INDEX]
    state = _states()[1]
    assert state.dealing is not None
    return [
        _labelled(b"a", state.announcement),
        _labelled(b"d", state.dealing),
        b"r" + json.dumps(written["reveal"]).encode(),
    ]


def _told() -> Sequence[bytes]:
    return [
        _labelled(b"R", _cohort().roster(_INDEX)),
        b"I" + json.dumps(_written()["devices"][_INDEX]["inbox"]).encode(),
        _labelled(b"S", _survivors()),
    ]


def _behind_label(data: bytes, rng: np.random.Generator) -> bytes:
    return data[:1] + mutations.json_text(data[1:], rng)


TARGETS = (
    Target(name="secagg-sent", run=_take, seeds=_sent, mutate=_behind_label),
    Target(name="secagg-told", run=_hear, seeds=_told, mutate=_behind_label),
)
