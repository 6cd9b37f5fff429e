"""A device sees and erases what is kept of itself, and nothing of anybody else."""

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from coordinator.protocol import device_keys, paths, problems
from coordinator.usecases import devices
from coordinator.usecases.devices import Admission, Applicant
from device_sim import identity
from tests.support.federation import Federation, plan
from tests.support.http import Api, assert_problem, serve
from tests.support.models import update_body


@pytest_asyncio.fixture
async def signing(federation: Federation) -> AsyncIterator[Api]:
    admission = Admission(needs_key=True)
    async with serve(federation, devices_sign=True, admission=admission) as running:
        yield running


def of(device_id: str) -> str:
    return f"{paths.DEVICES}/{device_id}"


async def test_a_device_exports_and_erases_itself(api: Api) -> None:
    federation = api.federation
    federation.start(settings=plan(goal=3))
    caller = api.enrol()
    assignment = await api.lease(caller)
    await api.submit(caller, assignment, update_body([1.0] * 10, examples=6))

    exported = await api.client.get(of(caller.id) + "/export", headers=caller.headers)
    erased = await api.client.delete(of(caller.id), headers=caller.headers)

    tables = exported.json()["tables"]
    assert not exported.json()["leaves_out_secret_rounds"]
    assert tables["updates"][0]["examples"] == 6
    assert tables["assignments"][0]["id"] == assignment["id"]
    assert caller.token not in exported.text
    assert erased.json() == {
        "id": caller.id,
        "erased_at": federation.clock.now().isoformat().replace("+00:00", "Z"),
        "in_versions": 0,
        "under_way": 0,
    }
    again = await api.client.delete(of(caller.id), headers=caller.headers)
    assert_problem(again, problems.UNAUTHENTICATED)
    (round_,) = federation.attempts()
    assert federation.counts(round_.id) == (0, 0, 0, 1)


async def test_an_operator_exports_and_erases_a_device(api: Api) -> None:
    caller = api.enrol()

    exported = await api.client.get(of(caller.id) + "/export", headers=api.operator)
    erased = [
        await api.client.delete(of(caller.id), headers=api.operator) for _ in range(2)
    ]

    assert exported.json()["leaves_out_secret_rounds"]
    assert erased[0].json() == erased[1].json()
    assert_problem(await api.check_in(caller), problems.UNAUTHENTICATED)
    listed = await api.client.get(paths.DEVICES, headers=api.operator)
    assert listed.json()["devices"][0]["erased_at"] == erased[0].json()["erased_at"]


async def test_nobody_else_sees_or_erases_a_device(api: Api) -> None:
    caller, other = api.enrol(), api.enrol()
    before = api.federation.state()
    strangers = {
        problems.FORBIDDEN: other.headers,
        problems.UNAUTHENTICATED: {"authorization": "Bearer nobody"},
    }

    for kind, headers in strangers.items():
        for method, path in (("DELETE", ""), ("GET", "/export")):
            refused = await api.client.request(
                method, of(caller.id) + path, headers=headers
            )
            assert_problem(refused, kind)
    nobody = await api.client.delete(of(caller.id))
    assert_problem(nobody, problems.UNAUTHENTICATED)

    assert api.federation.state() == before


async def test_a_device_that_signs_erases_itself(signing: Api) -> None:
    federation = signing.federation
    phones = [
        identity.Signer(identity.new_key(), now=federation.clock.now) for _ in range(2)
    ]
    own, other = [
        devices.enrol(
            federation.store,
            Applicant(key=device_keys.parse(phone.key.spki)),
            now=federation.clock.now(),
        )[0].id
        for phone in phones
    ]

    async def erase(phone: identity.Signer, device_id: str) -> httpx.Response:
        fields = phone.fields("DELETE", of(device_id), {}, b"")
        return await signing.client.delete(of(device_id), headers=fields)

    assert_problem(await erase(phones[0], other), problems.FORBIDDEN)
    assert (await erase(phones[0], own)).status_code == 200
    assert_problem(await erase(phones[0], own), problems.UNAUTHENTICATED)
    unsigned = await signing.client.delete(of(other))
    assert_problem(unsigned, problems.UNAUTHENTICATED)
    by_hand = await signing.client.delete(of(other), headers=signing.operator)
    assert by_hand.status_code == 200
