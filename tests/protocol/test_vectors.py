"""Bodies written once: a second implementation needs nothing but the JSON files."""

import base64
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from coordinator.protocol import encodings, tensors
from coordinator.protocol.deltas import InvalidUpdate
from coordinator.protocol.encodings import UnknownEncoding, Update, WrongMetadata
from coordinator.protocol.manifest import Manifest
from tests.support.models import tiny_manifest

VECTORS = pathlib.Path(__file__).parent / "vectors"
UPDATES: dict[str, Any] = json.loads((VECTORS / "updates.json").read_text())
MANIFEST = Manifest.model_validate(UPDATES["manifest"])
GOOD = {vector["name"]: vector for vector in UPDATES["good"]}
HOSTILE = {vector["name"]: vector for vector in UPDATES["hostile"]}


def decode(vector: dict[str, Any]) -> Update:
    body = base64.b64decode(vector["body"], validate=True)
    return encodings.decode_update(MANIFEST, body, max_examples=UPDATES["max_examples"])


def test_the_vectors_are_of_the_manifest_that_tests_use() -> None:
    assert tiny_manifest() == MANIFEST


@pytest.mark.parametrize("name", GOOD)
def test_a_good_body_gives_its_update(name: str) -> None:
    update, expected = decode(GOOD[name]), GOOD[name]["update"]
    delta = np.array(expected["delta"], "<f4")
    assert update.delta.astype("<f4").tobytes() == delta.tobytes()
    assert update.examples == expected["examples"]
    assert update.train_loss == expected["train_loss"]
    assert update.train_accuracy == expected["train_accuracy"]


def test_a_device_writes_the_canonical_body_to_the_last_byte() -> None:
    vector = GOOD["canonical"]
    fields = vector["update"] | {
        "delta": np.array(vector["update"]["delta"], np.float32)
    }
    body = encodings.encode_update(MANIFEST, Update(**fields))
    assert base64.b64encode(body).decode() == vector["body"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_by_its_class(name: str) -> None:
    with pytest.raises((tensors.MalformedTensors, InvalidUpdate)) as caught:
        decode(HOSTILE[name])
    assert caught.type.__name__ == HOSTILE[name]["refusal"]


def test_each_class_of_refusal_has_a_hostile_body() -> None:
    kinds: set[type[ValueError]] = {*InvalidUpdate.__subclasses__()}
    assert kinds > {UnknownEncoding, WrongMetadata}
    kinds |= {tensors.MalformedTensors, tensors.LeftoverBytes}
    assert {vector["refusal"] for vector in HOSTILE.values()} == {
        kind.__name__ for kind in kinds
    }
