"""A cohort written once: a second implementation needs nothing but the JSON file."""

import base64
import json
import pathlib
from typing import Any

import numpy as np
import pydantic
import pytest

from coordinator.protocol.encodings import Report
from coordinator.protocol.secagg import (
    cohort,
    device,
    fixed_point,
    graph,
    keys,
    scrutiny,
    stages,
    unmasking,
)
from coordinator.protocol.secagg.messages import (
    Announcement,
    Dealing,
    Inbox,
    Reveal,
    Survivors,
)
from coordinator.protocol.secagg.refusals import SecAggRefused

PATH = pathlib.Path(__file__).parents[1] / "vectors" / "secagg.json"
WRITTEN: dict[str, Any] = json.loads(PATH.read_text())
COHORT = cohort.Cohort.model_validate_json(json.dumps(WRITTEN["cohort"]))
DERIVED = WRITTEN["derived"]
DIGEST = COHORT.manifest.digest
SURVIVORS = Survivors.model_validate(WRITTEN["survivors"])
HOSTILE = {vector["name"]: vector for vector in WRITTEN["hostile"]}
EVERYBODY = range(len(COHORT.members))


def state_of(index: int) -> device.State:
    return device.State.model_validate_json(
        json.dumps(WRITTEN["devices"][index]["state"])
    )


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_digests_and_neighbours_are_as_written() -> None:
    assert [text(member.digest) for member in COHORT.members] == DERIVED[
        "member_digests"
    ]
    assert COHORT.manifest.roster_sha256 == DERIVED["roster_sha256"]
    assert text(DIGEST) == DERIVED["manifest_digest"]
    assert [[*around] for around in COHORT.neighbours] == DERIVED["neighbours"]
    sparse = graph.neighbours(DERIVED["roster_sha256"], 40, 4)
    assert [[*around] for around in sparse] == DERIVED["neighbours_of_40_with_degree_4"]


def test_keys_are_derived_as_written_from_either_side() -> None:
    ours, theirs = state_of(0), state_of(1)
    assert ours.sharing_private
    assert theirs.sharing_private
    assert ours.masking_private
    assert theirs.masking_private
    assert ours.own_mask
    for private, public in (
        (ours.sharing_private, theirs.announcement.sharing_key),
        (theirs.sharing_private, ours.announcement.sharing_key),
    ):
        key = keys.sealing_key(keys.load(private), public, DIGEST, 0, 1)
        assert text(key) == DERIVED["sealing_key_0_to_1"]
    for private, public, one, other in (
        (ours.masking_private, theirs.announcement.masking_key, 0, 1),
        (theirs.masking_private, ours.announcement.masking_key, 1, 0),
    ):
        key = keys.pair_mask_key(keys.load(private), public, DIGEST, one, other)
        assert text(key) == DERIVED["pair_mask_key_0_1"]
    assert text(keys.own_mask_key(ours.own_mask, DIGEST)) == DERIVED["own_mask_key_0"]


def test_an_update_is_encoded_as_written() -> None:
    written = WRITTEN["encoded"]
    report = Report(
        examples=written["examples"],
        train_loss=written["train_loss"],
        train_accuracy=written["train_accuracy"],
    )
    vector = fixed_point.encode(
        np.array(written["delta"], np.float32),
        report,
        COHORT.manifest.encoding,
        key=base64.b64decode(written["rounding_key"]),
    )
    assert vector.tolist() == written["vector"]


@pytest.mark.parametrize("index", SURVIVORS.indices)
def test_a_device_masks_and_reveals_as_written(index: int) -> None:
    written = WRITTEN["devices"][index]
    state, body = device.mask(
        state_of(index),
        Inbox.model_validate_json(json.dumps(written["inbox"])),
        np.array(written["vector"], np.uint32),
    )
    assert text(body) == written["masked"]
    _, revealed = device.reveal(state, SURVIVORS, scrutiny.Policy())
    assert json.loads(revealed.model_dump_json()) == written["reveal"]


def test_the_coordinator_gets_the_sum_as_written() -> None:
    total = unmasking.empty_sum(COHORT.manifest.encoding)
    reveals = {}
    for index in SURVIVORS.indices:
        written = WRITTEN["devices"][index]
        body = base64.b64decode(written["masked"])
        unmasking.add_vector(total, body, COHORT.manifest.encoding)
        reveals[index] = Reveal.model_validate_json(json.dumps(written["reveal"]))
    unmasking.unmask(COHORT, EVERYBODY, SURVIVORS.indices, reveals, total)
    assert total.tolist() == WRITTEN["sum"]


def take(message: str, body: str) -> None:
    """Read a body and check it, as from the device of index 0."""
    member = COHORT.members[0]
    match message:
        case "Announcement":
            cohort.admit(
                COHORT.manifest.session,
                member.device,
                member.identity,
                Announcement.model_validate_json(body),
            )
        case "Dealing":
            stages.check_dealing(COHORT, 0, Dealing.model_validate_json(body))
        case "Reveal":
            reveal = Reveal.model_validate_json(body)
            stages.check_reveal(COHORT, EVERYBODY, SURVIVORS.indices, 0, reveal)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_by_its_class(name: str) -> None:
    with pytest.raises((pydantic.ValidationError, SecAggRefused)) as caught:
        take(HOSTILE[name]["message"], json.dumps(HOSTILE[name]["body"]))
    assert caught.type.__name__ == HOSTILE[name]["refusal"]


def test_the_honest_bodies_beside_them_are_taken() -> None:
    for index, member in enumerate(COHORT.members):
        admitted = cohort.admit(
            COHORT.manifest.session, member.device, member.identity, member.announcement
        )
        assert admitted == member
        dealing = state_of(index).dealing
        assert dealing is not None
        stages.check_dealing(COHORT, index, dealing)
    for index in SURVIVORS.indices:
        revealed = Reveal.model_validate_json(
            json.dumps(WRITTEN["devices"][index]["reveal"])
        )
        stages.check_reveal(COHORT, EVERYBODY, SURVIVORS.indices, index, revealed)
