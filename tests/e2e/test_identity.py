"""Requests that are not what they seem: each refused in its own way, nothing changed.

A real coordinator, over HTTP, that enrols by token and takes signed requests only.
"""

import dataclasses
import datetime as dt
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from coordinator.protocol import digests, paths, problems
from coordinator.protocol.problems import ProblemType
from coordinator.store.engine import Store
from device_sim import identity
from tests.support.federation import Rows, dump, without_traces
from tests.support.http import assert_problem
from tests.support.models import update_body, write_tiny_model
from tests.support.processes import Coordinator

TASK = "task"
PLAN = {"model": "tiny", "round": {"goal": 2, "minimum": 2, "deadline_s": 600}}


class Clock:
    """A phone's clock, that may go wrong."""

    def __init__(self) -> None:
        self.off = dt.timedelta()

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.off  # noqa: TID251 - a phone's own clock


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A signed request, to be sent as it is or tampered with."""

    path: str
    headers: dict[str, str]
    content: bytes


class Phone:
    """A device that signs, and lets others see what it sends."""

    def __init__(self, http: httpx.Client, enrolment_token: str) -> None:
        self.http = http
        self.clock = Clock()
        self._signer = identity.Signer(identity.new_key(), now=self.clock.now)
        self.enrolling = self.sign(
            paths.DEVICES,
            json_body(
                {
                    "enrolment_token": enrolment_token,
                    "public_key": self._signer.key.spki,
                }
            ),
        )
        answer = send(http, self.enrolling)
        assert answer.status_code == 201, answer.text
        assert answer.json()["auth"] == "signature"
        assert answer.json()["token"] is None
        self.id: str = answer.json()["device_id"]

    def sign(self, path: str, content: bytes, **headers: str) -> Request:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if content.startswith(b"{"):
            fields["content-type"] = "application/json"
        signed = self._signer.fields("POST", path, fields, content)
        return Request(path=path, headers=fields | signed, content=content)

    def checking_in(self) -> Request:
        return self.sign(
            paths.CHECK_INS, json_body({}), idempotency_key=uuid.uuid4().hex
        )

    def assignment(self) -> dict[str, Any]:
        answer = send(self.http, self.checking_in())
        assignment: dict[str, Any] = answer.json()["assignment"]
        assert assignment is not None, answer.text
        return assignment


def json_body(content: dict[str, Any]) -> bytes:
    return httpx.Request("POST", "http://any", json=content).content


def send(http: httpx.Client, request: Request) -> httpx.Response:
    return http.post(request.path, headers=request.headers, content=request.content)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A running coordinator whose every row can be seen."""

    coordinator: Coordinator
    http: httpx.Client
    store: Store

    def admin(self, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.http.post(path, headers=self.coordinator.operator, json=content)
        assert answer.is_success, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def enrolment_token(self, **content: Any) -> str:  # noqa: ANN401 - any JSON
        made = self.admin(paths.ENROLMENT_TOKENS, {"name": "test", **content})
        token: str = made["token"]
        return token

    def phone(self) -> Phone:
        return Phone(self.http, self.enrolment_token())

    def rows(self) -> Rows:
        return without_traces(dump(self.store))

    def audit(self) -> list[tuple[str, str, str | None]]:
        entries = self.coordinator.get(paths.AUDIT + "?limit=1000")["entries"]
        return [(e["decision"], e["subject"], e["reason"]) for e in entries]


@pytest.fixture
def world(database_url: str, tmp_path: pathlib.Path) -> Iterator[World]:
    write_tiny_model(tmp_path / "models")
    coordinator = Coordinator(
        tmp_path,
        database_url=database_url,
        models_dir=tmp_path / "models",
        settings={"SHOAL_ENROLMENT": "token", "SHOAL_DEVICE_AUTH": "signature"},
    )
    store = Store(database_url, durable=False)
    coordinator.start("api")
    with httpx.Client(base_url=coordinator.url, timeout=30) as http:
        made = World(coordinator=coordinator, http=http, store=store)
        made.admin(paths.TASKS, {"id": TASK, "plan": PLAN})
        yield made
    coordinator.stop()
    store.close()


Attack = Callable[[World, Phone, dict[str, Any]], httpx.Response]


def replay(world: World, phone: Phone, _: dict[str, Any]) -> httpx.Response:
    """A check-in that somebody saw, word for word."""
    seen = phone.checking_in()
    assert send(world.http, seen).status_code == 200
    return send(world.http, seen)


def replayed_enrolment(world: World, phone: Phone, _: dict[str, Any]) -> httpx.Response:
    return send(world.http, phone.enrolling)


def swapped_body(world: World, phone: Phone, work: dict[str, Any]) -> httpx.Response:
    """Another update under the headers of a signed one."""
    signed = phone.sign(work["report_to"], update_body([1.0] * 10))
    other = update_body([2.0] * 10)
    return send(world.http, dataclasses.replace(signed, content=other))


def swapped_json(world: World, phone: Phone, work: dict[str, Any]) -> httpx.Response:
    signed = phone.sign(work["failure_to"], json_body({"reason": "interrupted"}))
    other = json_body({"reason": "no_examples"})
    return send(world.http, dataclasses.replace(signed, content=other))


def swapped_body_and_digest(
    world: World, phone: Phone, work: dict[str, Any]
) -> httpx.Response:
    signed = phone.sign(work["report_to"], update_body([1.0] * 10))
    other = update_body([2.0] * 10)
    digest = digests.content_digest(digests.sha256_hex(other))
    headers = signed.headers | {digests.FIELD: digest}
    return send(world.http, dataclasses.replace(signed, content=other, headers=headers))


def swapped_path(world: World, phone: Phone, work: dict[str, Any]) -> httpx.Response:
    """The signed body of one call sent to another."""
    signed = phone.sign(work["report_to"], json_body({"reason": "interrupted"}))
    return send(world.http, dataclasses.replace(signed, path=work["failure_to"]))


def swapped_key(world: World, phone: Phone, _: dict[str, Any]) -> httpx.Response:
    """A check-in whose Idempotency-Key was changed on its way."""
    signed = phone.checking_in()
    headers = signed.headers | {"idempotency-key": "another"}
    return send(world.http, dataclasses.replace(signed, headers=headers))


def slow_clock(world: World, phone: Phone, _: dict[str, Any]) -> httpx.Response:
    phone.clock.off = -dt.timedelta(seconds=301)
    return send(world.http, phone.checking_in())


def fast_clock(world: World, phone: Phone, _: dict[str, Any]) -> httpx.Response:
    phone.clock.off = dt.timedelta(seconds=330)
    return send(world.http, phone.checking_in())


def unsigned(world: World, phone: Phone, _: dict[str, Any]) -> httpx.Response:
    """The operator's token in place of a signature."""
    seen = phone.checking_in()
    kept = {
        name: value
        for name, value in seen.headers.items()
        if not name.startswith("Signature")
    }
    headers = kept | world.coordinator.operator
    return send(world.http, dataclasses.replace(seen, headers=headers))


def unknown_key(world: World, _: Phone, __: dict[str, Any]) -> httpx.Response:
    """A well-made signature with a key that nobody registered."""
    content = json_body({})
    fields = {"idempotency-key": "k", "content-type": "application/json"}
    signer = identity.Signer(identity.new_key())
    signed = signer.fields("POST", paths.CHECK_INS, fields, content)
    return world.http.post(paths.CHECK_INS, headers=fields | signed, content=content)


ATTACKS: list[tuple[Attack, ProblemType, bool]] = [
    (replay, problems.SIGNATURE_REPLAYED, True),
    (replayed_enrolment, problems.SIGNATURE_REPLAYED, False),
    (swapped_body, problems.BODY_NOT_SIGNED, True),
    (swapped_json, problems.BODY_NOT_SIGNED, True),
    (swapped_body_and_digest, problems.SIGNATURE_INVALID, True),
    (swapped_path, problems.SIGNATURE_INVALID, True),
    (swapped_key, problems.SIGNATURE_INVALID, True),
    (slow_clock, problems.SIGNATURE_STALE, True),
    (fast_clock, problems.SIGNATURE_STALE, True),
    (unsigned, problems.SIGNATURE_NEEDED, False),
    (unknown_key, problems.UNAUTHENTICATED, False),
]


@pytest.mark.slow
def test_what_is_not_what_it_seems_is_refused_audited_and_changes_nothing(
    world: World,
) -> None:
    for attack, kind, names_the_phone in ATTACKS:
        phone = world.phone()
        work: dict[str, Any] = {
            "report_to": paths.update("0" * 32),
            "failure_to": paths.failure("0" * 32),
        }
        if attack in {swapped_body, swapped_json, replay}:
            work = phone.assignment()
        before, log = world.rows(), world.audit()

        response = attack(world, phone, work)

        assert_problem(response, kind)
        assert response.status_code in {401, 403, 409}, attack
        assert world.rows() == before, attack
        subject = phone.id if names_the_phone else ""
        entries = world.audit()[len(log) :]
        known = ("refused", subject, kind.slug) in log  # counted there, then
        assert entries == ([] if known else [("refused", subject, kind.slug)]), attack
        if work.get("id"):  # for the next one
            phone.clock.off = dt.timedelta()
            gave_up = phone.sign(work["failure_to"], json_body({"reason": "refused"}))
            assert send(world.http, gave_up).status_code == 200


@pytest.mark.slow
def test_the_wrong_round_the_wrong_device_and_revoked_keys(world: World) -> None:
    late, early, other, stranger = (world.phone() for _ in range(4))
    lates, earlys = late.assignment(), early.assignment()

    def refused(
        request: Request, by: Phone, kind: ProblemType, subject: str | None = None
    ) -> None:
        before, log = world.rows(), world.audit()
        response = send(world.http, request)
        assert_problem(response, kind)
        assert response.status_code in {401, 403, 409}
        assert world.rows() == before
        who = by.id if subject is None else subject
        assert world.audit()[len(log) :] == [("refused", who, kind.slug)]

    # Another device's assignment, under one's own good signature.
    body = update_body([1.0] * 10)
    refused(
        stranger.sign(lates["report_to"], body), stranger, problems.FOREIGN_ASSIGNMENT
    )

    # A token that admits nobody: used up, an operator's, revoked.
    spent = world.enrolment_token()
    Phone(world.http, spent)
    signer = identity.Signer(identity.new_key())
    for token in (spent, world.coordinator.operator["Authorization"][7:]):
        content = json_body({"enrolment_token": token, "public_key": signer.key.spki})
        fields = {"content-type": "application/json"}
        signed = signer.fields("POST", paths.DEVICES, fields, content)
        before = world.rows()
        answer = world.http.post(
            paths.DEVICES, headers=fields | signed, content=content
        )
        assert_problem(answer, problems.ENROLMENT_TOKEN_REFUSED)
        assert world.rows() == before
    assert ("refused", "", "enrolment-token-refused") in world.audit()

    # A revoked device, in the middle of its work: its place is free at once.
    world.admin(f"{paths.DEVICES}/{early.id}/revoke")
    assert ("device_revoked", early.id, None) in world.audit()
    refused(early.sign(earlys["report_to"], body), early, problems.DEVICE_REVOKED)
    assert_problem(send(world.http, early.checking_in()), problems.DEVICE_REVOKED)
    assert_problem(send(world.http, early.enrolling), problems.DEVICE_REVOKED)

    # The same update again is a new signature, and the same receipt.
    receipts = [
        send(world.http, other.sign(work["report_to"], body)).json()
        for work in [other.assignment()]
        for _ in range(2)
    ]
    assert receipts[0] == receipts[1]
    assert "accepted_at" in receipts[0]

    # The round closes without the late one.
    world.admin(paths.task(TASK) + "/stop")
    refused(late.sign(lates["report_to"], body), late, problems.ROUND_CLOSED)
