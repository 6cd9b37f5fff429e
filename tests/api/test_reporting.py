"""Posting an update: once, in time, by the device that holds the assignment."""

from collections.abc import Callable

import pytest

from coordinator.domain.rounds import Phase
from coordinator.protocol import problems
from coordinator.protocol.problems import ProblemType
from tests.support.federation import plan
from tests.support.http import Api, assert_problem
from tests.support.models import update_body

BODY = update_body([0.5] * 10, examples=3)
OTHER_BODY = update_body([0.25] * 10, examples=3)


async def test_the_same_body_again_gets_the_same_receipt(api: Api) -> None:
    api.federation.start(settings=plan(goal=1))
    caller = api.enrol()
    assignment = await api.lease(caller)
    first = await api.submit(caller, assignment, BODY)
    api.federation.release(api.federation.must_claim())
    api.federation.clock.advance(10_000)
    before = api.federation.state()

    again = await api.submit(caller, assignment, BODY)

    assert (again.status_code, again.json()) == (200, first.json())
    assert api.federation.state() == before


async def test_another_body_is_refused(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    await api.submit(caller, assignment, BODY)
    before = api.federation.state()

    response = await api.submit(caller, assignment, OTHER_BODY)

    assert_problem(response, problems.ALREADY_REPORTED)
    assert api.federation.state() == before


async def test_another_devices_assignment_is_refused(api: Api) -> None:
    api.federation.start()
    assignment = await api.lease(api.enrol())
    thief = api.enrol()
    before = api.federation.state()

    response = await api.submit(thief, assignment, BODY)

    assert_problem(response, problems.FOREIGN_ASSIGNMENT)
    assert api.federation.state() == before


async def test_an_unknown_assignment_is_refused(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    report_to = f"/v1/assignments/{'f' * 32}/update"
    before = api.federation.state()

    response = await api.submit(caller, {"report_to": report_to}, BODY)

    assert_problem(response, problems.ASSIGNMENT_UNKNOWN)
    assert api.federation.state() == before


async def test_an_id_of_another_form_is_refused(api: Api) -> None:
    caller = api.enrol()

    response = await api.submit(
        caller, {"report_to": "/v1/assignments/NO-ID/update"}, BODY
    )

    assert_problem(response, problems.INVALID_REQUEST)


def lapse(api: Api) -> None:
    api.federation.clock.advance(60)


def lapse_and_sweep(api: Api) -> None:
    api.federation.clock.advance(60)
    api.federation.advance()


def pass_the_deadline(api: Api) -> None:
    api.federation.clock.advance(120)
    api.federation.advance()


def reach_the_goal(api: Api) -> None:
    for _ in range(2):
        api.federation.take_part()
    assert api.federation.phases() == [Phase.AGGREGATING]


def release_the_round(api: Api) -> None:
    reach_the_goal(api)
    api.federation.release(api.federation.must_claim())


@pytest.mark.parametrize(
    ("meanwhile", "kind"),
    [
        (lapse, problems.LEASE_LAPSED),
        (lapse_and_sweep, problems.LEASE_LAPSED),
        (pass_the_deadline, problems.ROUND_CLOSED),
        (reach_the_goal, problems.ROUND_CLOSED),
        (release_the_round, problems.ROUND_CLOSED),
    ],
)
async def test_a_late_update_is_refused_and_changes_nothing(
    api: Api, meanwhile: Callable[[Api], None], kind: ProblemType
) -> None:
    api.federation.start(settings=plan(goal=2, over_select=0.5))
    caller = api.enrol()
    assignment = await api.lease(caller)
    meanwhile(api)
    before = api.federation.state()

    response = await api.submit(caller, assignment, BODY)

    assert_problem(response, kind)
    assert api.federation.state() == before


async def test_an_update_of_an_assignment_that_was_given_up_is_refused(
    api: Api,
) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    await api.client.post(
        assignment["failure_to"],
        headers=caller.headers,
        json={"reason": "interrupted"},
    )
    before = api.federation.state()

    response = await api.submit(caller, assignment, BODY)

    assert_problem(response, problems.ASSIGNMENT_ENDED)
    assert api.federation.state() == before


@pytest.mark.parametrize("token", ["", "Bearer unknown", "Basic YTpi"])
async def test_an_update_needs_its_devices_token(api: Api, token: str) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()

    response = await api.submit(caller, assignment, BODY, authorization=token)

    assert_problem(response, problems.UNAUTHENTICATED)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert api.federation.state() == before
