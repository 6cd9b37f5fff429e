"""Fuzzers of what both ends read: bodies, codings, manifests, plans, answers."""

import gzip
import json
import pathlib
from collections.abc import Sequence

import httpx
import numpy as np
import zstandard

from coordinator.protocol import (
    codings,
    deltas,
    digests,
    encodings,
    first_weights,
    manifest,
    messages,
    plan_training,
    plans,
    problems,
    tensors,
)
from device_sim import cache, client
from device_sim.cache import UnreadableDownload
from tests.fuzz import mutations
from tests.fuzz.target import Target
from tests.support.models import INFER, TRAIN, tiny_manifest, update_body

_MANIFEST = tiny_manifest()
_LIMIT = 1 << 16
_PLANS = pathlib.Path(__file__).parents[2] / "plans"


def _updates() -> Sequence[bytes]:
    return [
        update_body(
            np.linspace(-1, 1, 10, dtype=np.float32),
            examples=3,
            update=plan_training.UpdatePlan(encoding=name, topk_share=0.5),
        )
        for name in deltas.NAMES
    ]


def _read_tensors(data: bytes) -> None:
    try:
        found = tensors.read(data)
    except tensors.MalformedTensors:
        return
    size = sum(found.array(entry).nbytes for entry in found.entries)
    assert size == len(found.data)
    again = tensors.write(
        [(entry.name, found.array(entry)) for entry in found.entries], found.metadata
    )
    assert tensors.read(again) == found


def _read_update(data: bytes) -> None:
    try:
        report = encodings.check_update(_MANIFEST, data, max_examples=1000)
    except (tensors.MalformedTensors, deltas.InvalidUpdate):
        return
    update = encodings.decode_update(_MANIFEST, data, max_examples=1000)
    assert 1 <= update.examples == report.examples <= 1000
    assert update.delta.shape == (10,)
    assert np.isfinite(update.delta).all()


def _read_weights(data: bytes) -> None:
    try:
        values = first_weights.read(_MANIFEST, data)
    except first_weights.InvalidFirstWeights:
        pass
    else:
        assert all(np.isfinite(value).all() for value in values.values())
    try:
        weights = encodings.decode_weights(_MANIFEST, data)
    except (tensors.MalformedTensors, deltas.InvalidUpdate):
        return
    assert weights.shape == (10,)


def _first_weights() -> Sequence[bytes]:
    parts = {spec.name: np.ones(spec.shape, np.float32) for spec in _MANIFEST.tensors}
    head = {"scale": np.ones((1,), np.float32)}
    return [first_weights.write(_MANIFEST, values) for values in (parts, head, {})]


def _inflate(data: bytes) -> None:
    coding = codings.GZIP if data[:1] and data[0] & 1 else codings.ZSTD
    try:
        content = codings.inflate(data[1:], coding, limit=_LIMIT)
    except (codings.BadCoding, codings.InflatesTooFar):
        return
    assert len(content) <= _LIMIT


def _coded() -> Sequence[bytes]:
    contents = [b"", _updates()[0], bytes(_LIMIT), bytes(_LIMIT + 1), bytes(1 << 24)]
    zstd = zstandard.ZstdCompressor(3)
    return [b"\1" + gzip.compress(each, mtime=0) for each in contents] + [
        b"\0" + zstd.compress(each) for each in contents
    ]


def _read_manifest(data: bytes) -> None:
    try:
        model = cache._read_model(data, TRAIN, "/manifest")
    except UnreadableDownload:
        return
    found = model.manifest
    assert manifest.Manifest.model_validate_json(found.to_json()) == found
    if found.infer.size_bytes <= 1 << 12:  # and so the weights that lie in it
        infer = INFER[: found.infer.size_bytes].ljust(found.infer.size_bytes, b"\0")
        weights = np.arange(found.size, dtype=np.float32)
        assert len(manifest.patch_weights(infer, found, weights)) == len(infer)


def _read_plan(data: bytes) -> None:
    try:
        content = data.decode()
    except UnicodeDecodeError:
        return
    try:
        plan = plans.parse(content)
    except plans.InvalidPlan:
        return
    assert plans.Plan.model_validate_json(plan.model_dump_json()) == plan


def _plans() -> Sequence[bytes]:
    deep = b"model = " + b"[" * 3000 + b"]" * 3000
    long = b"seed = " + b"1" * 5000
    return [*(path.read_bytes() for path in sorted(_PLANS.glob("*.toml"))), deep, long]


_ANSWERS = (messages.Enrolment, messages.CheckIn, messages.Receipt, problems.Problem)


def _read_answer(data: bytes) -> None:
    """What a device makes of an answer: byte 0 says of which call."""
    kind = _ANSWERS[data[0] % len(_ANSWERS)] if data else _ANSWERS[0]
    body = data[1:]
    waits: list[float | None] = []
    if kind is problems.Problem:
        response = httpx.Response(503, content=body)
        waits.append(client._read_refusal(response)[1])
    else:
        try:
            answer = client.parse(kind, body)
        except client.UnexpectedAnswer:
            return
        if isinstance(answer, messages.CheckIn):
            waits.append(answer.retry_after_s)
            if answer.assignment is not None:
                waits.append(answer.assignment.lease_s)
    assert all(wait is None or 0 <= wait < float("inf") for wait in waits)


def _answers() -> Sequence[bytes]:
    download = {"url": "/v1/models/tiny/manifest", "sha256": "0" * 64, "size_bytes": 9}
    assignment = {
        "id": "0" * 32,
        "kind": "train",
        "task": "task",
        "round": 1,
        "attempt": 1,
        "model": "tiny",
        "version": 0,
        "seed": 7,
        "training": {},
        "signature": "train",
        "manifest": download,
        "train_graph": download,
        "weights": download,
        "report_to": "/v1/assignments/0/update",
        "failure_to": "/v1/assignments/0/failure",
        "lease_expires_at": "2026-01-01T00:00:00Z",
        "lease_s": 60.0,
        "max_report_bytes": 1000,
    }
    work = {"assignment": assignment, "wait_reason": None, "retry_after_s": None}
    wait = {"assignment": None, "wait_reason": "round_full", "retry_after_s": 5.0}
    receipt = {
        "assignment": "0" * 32,
        "sha256": "0" * 64,
        "size_bytes": 9,
        "examples": 1,
        "accepted_at": "2026-01-01T00:00:00Z",
    }
    refusal = problems.document(problems.INTERNAL, "why", retry_after_s=2.0)
    each = [{"device_id": "0" * 32, "token": "x"}, work, receipt, refusal]
    texts = [bytes([n]) + json.dumps(value).encode() for n, value in enumerate(each)]
    nan = json.dumps(wait | {"retry_after_s": float("nan")}).encode()
    return [*texts, b"\1" + json.dumps(wait).encode(), b"\1" + nan]


def _behind_first_byte(data: bytes, rng: np.random.Generator) -> bytes:
    return data[:1] + mutations.json_text(data[1:], rng)


def _digests() -> Sequence[bytes]:
    field = digests.content_digest("ab" * 32)
    return [field.encode(), f"md5=:YWJj:, {field}".encode(), b"sha-256=:YWJj:"]


def _parse_digest(data: bytes) -> None:
    try:
        found = digests.parse_content_digest(data.decode("latin-1"))
    except ValueError as error:
        assert "Content-Digest must hold" in str(error)  # noqa: PT017 - no test
        return
    assert len(bytes.fromhex(found)) == 32


_TOML = mutations.text(
    [
        b"[round]\n",
        b"[[round]]\n",
        b"goal = ",
        b"1e400",
        b"nan",
        b"-inf",
        b"0x7fffffffffffffff",
        b"99999999999999999999",
        b"1979-05-27T07:32:00Z",
        b'"""',
        b'"\\uD800"',
        b"\\u0000",
        b"{a = [",
        b"]}",
        b".",
        b" = ",
        b"'",
        b"#",
        b"true",
        b"server.",
    ]
)

TARGETS = (
    Target(
        name="tensors", run=_read_tensors, seeds=_updates, mutate=mutations.container
    ),
    Target(
        name="updates", run=_read_update, seeds=_updates, mutate=mutations.container
    ),
    Target(
        name="weights",
        run=_read_weights,
        seeds=_first_weights,
        mutate=mutations.container,
    ),
    Target(
        name="codings",
        run=_inflate,
        seeds=_coded,
        mutate=mutations.coded(mutations.container),
        max_bytes=1 << 17,
    ),
    Target(name="digests", run=_parse_digest, seeds=_digests),
    Target(
        name="manifests",
        run=_read_manifest,
        seeds=lambda: [_MANIFEST.to_json()],
        mutate=mutations.json_text,
    ),
    Target(name="plans", run=_read_plan, seeds=_plans, mutate=_TOML),
    Target(name="answers", run=_read_answer, seeds=_answers, mutate=_behind_first_byte),
)
