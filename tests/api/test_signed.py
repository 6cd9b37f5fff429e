"""Devices that sign, as the simulated ones do it, against the running application."""

import base64
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from coordinator.domain.attestation import AndroidKeyAttestor, Level
from coordinator.domain.challenges import Challenges
from coordinator.domain.devices import Role
from coordinator.protocol import digests, messages, paths, problems
from coordinator.protocol.messages import EvaluationReport, FailureReport
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.vocabulary import FailureReason
from coordinator.usecases import tokens
from coordinator.usecases.devices import Admission
from device_sim import client, identity
from tests.support import attestation as made
from tests.support.federation import Federation, dump, plan
from tests.support.http import Api, assert_problem, serve
from tests.support.models import update_body


@pytest_asyncio.fixture
async def signing(federation: Federation) -> AsyncIterator[Api]:
    admission = Admission(needs_key=True)
    async with serve(federation, devices_sign=True, admission=admission) as running:
        yield running


class Phone:
    """A simulated device's calls, that can lose the answer to each first try."""

    def __init__(self, api: Api, *, loses: bool = False) -> None:
        self._api = api
        self._loses = loses
        self._seen: set[tuple[str, bytes]] = set()
        self.sent: list[httpx.Request] = []
        self.signer = identity.Signer(identity.new_key(), now=api.federation.clock.now)
        http = httpx.AsyncClient(
            transport=httpx.MockTransport(self._pass_on), base_url="http://test"
        )
        self.calls = client.Client(
            http, jitter=np.random.default_rng(1), sleep=self._sleep
        )

    async def enrol(self) -> messages.Enrolment:
        request = messages.EnrolRequest(public_key=self.signer.key.spki)
        return await self.calls.enrol(request, self.signer)

    async def assignment(self) -> messages.Assignment:
        answer = await self.calls.check_in(self.signer, key="k" * 20, wait_s=0)
        assert answer.assignment is not None
        return answer.assignment

    async def _pass_on(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        answer = await self._api.client.request(
            request.method,
            request.url.path,
            headers=request.headers,
            content=request.content,
        )
        what = (request.url.path, request.content)
        if self._loses and what not in self._seen:
            self._seen.add(what)
            raise httpx.ReadError("the answer is lost")
        return answer

    async def _sleep(self, _: float) -> None:
        return None


@pytest.mark.parametrize("loses", [False, True])
async def test_a_device_signs_its_way_through_a_round(
    signing: Api, *, loses: bool
) -> None:
    evaluation = EvaluationPlan(every=1, goal=1, minimum=1)
    federation = signing.federation
    federation.start(settings=plan(goal=1, minimum=1, evaluation=evaluation))
    phone = Phone(signing, loses=loses)

    enrolment = await phone.enrol()
    assert (enrolment.auth, enrolment.token) == ("signature", None)
    assignment = await phone.assignment()
    body = update_body([1.0] * 10)
    receipt = await phone.calls.send_update(
        phone.signer,
        assignment.report_to,
        body=body,
        sha256=digests.sha256_hex(body),
        deadline=float("inf"),
    )

    assert receipt.sha256 == digests.sha256_hex(body)
    assert len(federation.rows()["devices"]) == 1
    (round_,) = federation.attempts()
    assert federation.counts(round_.id) == (0, 1, 0, 0)
    fields = [request.headers["Signature"] for request in phone.sent]
    assert len(set(fields)) == len(fields) == (6 if loses else 3)
    assert not any("Authorization" in request.headers for request in phone.sent)


async def test_evaluations_and_failures_are_signed(signing: Api) -> None:
    federation = signing.federation
    federation.start(settings=plan(goal=2))
    phone = Phone(signing)
    await phone.enrol()
    assignment = await phone.assignment()
    wrong = EvaluationReport(examples=1, loss_sum=1.0, correct=1)

    with pytest.raises(client.Refused) as refusal:
        await phone.calls.send_evaluation(
            phone.signer,
            paths.evaluation(assignment.id),
            wrong,
            deadline=float("inf"),
        )
    assert refusal.value.is_of(problems.WRONG_KIND)
    report = FailureReport(reason=FailureReason.INTERRUPTED, detail=None)
    await phone.calls.send_failure(
        phone.signer, assignment.failure_to, report, deadline=float("inf")
    )

    (round_,) = federation.attempts()
    assert federation.counts(round_.id) == (0, 0, 1, 0)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({}, problems.DEVICE_KEY_NEEDED),
        ({"public_key": "bm8ga2V5"}, problems.DEVICE_KEY_REFUSED),
        ({"public_key": "x" * 201}, problems.INVALID_REQUEST),
        ({"attestation": ["no base64!"]}, problems.INVALID_REQUEST),
    ],
)
async def test_an_enrolment_without_a_usable_key_is_refused(
    signing: Api, body: dict[str, Any], kind: problems.ProblemType
) -> None:
    before = signing.federation.state()

    assert_problem(await signing.client.post(paths.DEVICES, json=body), kind)

    assert signing.federation.state() == before


async def test_a_key_is_registered_by_who_holds_it(signing: Api) -> None:
    phone, thief = Phone(signing), Phone(signing)
    content = messages.EnrolRequest(public_key=phone.signer.key.spki)
    body = content.model_dump_json().encode()
    fields = {"Content-Type": "application/json"}
    before = signing.federation.state()

    for signed, kind in (
        ({}, problems.SIGNATURE_NEEDED),
        (
            thief.signer.fields("POST", paths.DEVICES, fields, body),
            problems.SIGNATURE_INVALID,
        ),
        (
            phone.signer.fields("POST", paths.DEVICES, fields, body + b" "),
            problems.BODY_NOT_SIGNED,
        ),
    ):
        response = await signing.client.post(
            paths.DEVICES, headers=fields | signed, content=body
        )
        assert_problem(response, kind)

    assert signing.federation.state() == before


async def test_a_key_may_be_registered_where_tokens_are_borne(api: Api) -> None:
    phone = Phone(api)

    first, again = [await phone.enrol() for _ in range(2)]

    assert first.auth == again.auth == "bearer"
    assert first.device_id == again.device_id
    assert first.token != again.token
    for token, status in ((first.token, 401), (again.token, 200)):
        response = await api.client.post(
            paths.CHECK_INS,
            headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "k"},
            json={},
        )
        assert response.status_code == status


async def test_a_body_that_changed_on_its_way_is_no_accusation_without_signatures(
    api: Api,
) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)

    response = await api.submit(
        caller,
        assignment,
        update_body([1.0] * 10),
        content_digest=digests.content_digest(digests.sha256_hex(b"other")),
    )

    assert_problem(response, problems.DIGEST_MISMATCH)


ADMINS_ALONE = [
    ("POST", paths.ENROLMENT_TOKENS, {"name": "pilot"}),
    ("POST", f"{paths.ENROLMENT_TOKENS}/{'0' * 32}/revoke", None),
    ("POST", paths.OPERATORS, {"name": "ann", "role": "admin"}),
    ("POST", f"{paths.OPERATORS}/{'0' * 32}/revoke", None),
    ("POST", f"{paths.DEVICES}/{'0' * 32}/revoke", None),
    ("DELETE", f"{paths.DEVICES}/{'0' * 32}", None),
]
RUNNERS_TOO = [
    ("POST", paths.TASKS, {"id": "new", "plan": {"model": "tiny"}}),
    ("POST", paths.task("task") + "/stop", None),
    ("POST", paths.rollback("task"), {"version": 0}),
    ("PUT", paths.tag("tiny", "production"), {"version": 0}),
    ("DELETE", paths.tag("tiny", "production"), None),
]
ALL_MAY = [
    ("GET", path, None)
    for path in (
        paths.TASKS,
        paths.DEVICES,
        paths.MODELS,
        paths.AUDIT,
        paths.ENROLMENT_TOKENS,
        paths.OPERATORS,
        f"{paths.DEVICES}/{'0' * 32}/export",
    )
]


@pytest.mark.parametrize(
    ("method", "path", "body", "least"),
    [
        *[(*each, Role.ADMIN) for each in ADMINS_ALONE],
        *[(*each, Role.RUN) for each in RUNNERS_TOO],
        *[(*each, Role.READ) for each in ALL_MAY],
    ],
)
async def test_each_call_needs_its_role(
    api: Api, method: str, path: str, body: dict[str, Any] | None, least: Role
) -> None:
    api.federation.start()
    order = list(Role)
    for role in order:
        operator, token = tokens.make_operator(
            api.federation.store,
            name="ann",
            role=role,
            by="test",
            now=api.federation.clock.now(),
        )
        before = api.federation.state()
        headers = {"authorization": f"Bearer {token}"}
        response = await api.client.request(method, path, headers=headers, json=body)
        if order.index(role) >= order.index(least):
            assert response.status_code not in {401, 403}, response.text
            return
        assert_problem(response, problems.FORBIDDEN)
        assert api.federation.state() == before
        await api.app.state.services.refusals.write()
        (entry,) = [
            row for row in dump(api.federation.store)["audit"] if row[2] == "refused"
        ][-1:]
        assert operator.id in entry


async def test_tokens_are_made_listed_and_revoked(api: Api) -> None:
    made = await api.client.post(
        paths.ENROLMENT_TOKENS,
        headers=api.operator,
        json={"name": "pilot", "max_uses": 2, "valid_s": 60},
    )
    assert made.status_code == 201
    token = made.json()
    assert (token["uses"], token["max_uses"]) == (0, 2)
    expires = dt.datetime.fromisoformat(token["expires_at"])
    assert expires == api.federation.clock.now() + dt.timedelta(seconds=60)
    revoked = await api.client.post(
        f"{paths.ENROLMENT_TOKENS}/{token['id']}/revoke", headers=api.operator
    )
    assert revoked.json()["revoked_at"] is not None
    listed = await api.client.get(paths.ENROLMENT_TOKENS, headers=api.operator)
    assert [each["id"] for each in listed.json()["tokens"]] == [token["id"]]
    assert token["token"] not in listed.text + revoked.text

    made = await api.client.post(
        paths.OPERATORS, headers=api.operator, json={"name": "ann", "role": "read"}
    )
    operator = made.json()
    headers = {"authorization": f"Bearer {operator['token']}"}
    assert (await api.client.get(paths.TASKS, headers=headers)).status_code == 200
    await api.client.post(
        f"{paths.OPERATORS}/{operator['id']}/revoke", headers=api.operator
    )
    refused = await api.client.get(paths.TASKS, headers=headers)
    assert_problem(refused, problems.UNAUTHENTICATED)

    log = await api.client.get(paths.AUDIT, headers=api.operator)
    found = [(entry["decision"], entry["reason"]) for entry in log.json()["entries"]]
    assert found == [
        ("operator_admitted", "admin"),
        ("enrolment_token_made", None),
        ("enrolment_token_revoked", None),
        ("operator_admitted", "read"),
        ("operator_revoked", None),
        ("refused", "unauthenticated"),
    ]


async def test_a_device_is_revoked_over_http(api: Api) -> None:
    caller = api.enrol()

    revoked = await api.client.post(
        f"{paths.DEVICES}/{caller.id}/revoke", headers=api.operator
    )

    assert revoked.json()["id"] == caller.id
    assert_problem(await api.check_in(caller), problems.DEVICE_REVOKED)
    listed = await api.client.get(paths.DEVICES, headers=api.operator)
    assert listed.json()["devices"][0]["revoked_at"] == revoked.json()["revoked_at"]
    unknown = await api.client.post(
        f"{paths.DEVICES}/{'0' * 32}/revoke", headers=api.operator
    )
    assert_problem(unknown, problems.DEVICE_UNKNOWN)


async def test_a_challenge_is_handed_out_where_one_is_asked_for(
    api: Api, federation: Federation
) -> None:
    refused = await api.client.post(paths.ENROLMENT_CHALLENGES)
    assert_problem(refused, problems.ATTESTATION_NOT_ASKED)
    root = made.authority("root").certificate
    admission = Admission(
        needs_key=True,
        attestor=AndroidKeyAttestor([root], least=Level.TEE),
        challenges=Challenges(b"k" * 32),
    )
    async with serve(federation, admission=admission) as strict:
        answer = await strict.client.post(paths.ENROLMENT_CHALLENGES)

    assert answer.status_code == 201
    challenge = base64.b64decode(answer.json()["challenge"])
    assert len(challenge) == 56
    expires_at = dt.datetime.fromisoformat(answer.json()["expires_at"])
    assert Challenges(b"k" * 32).expiry(challenge) == expires_at
    assert expires_at <= federation.clock.now() + dt.timedelta(minutes=10)
