"""What is kept of a device: shown and erased, for an operator or for the device."""

from typing import Annotated

import fastapi

from coordinator.api import callers
from coordinator.api.problems import refusals
from coordinator.api.services import Given
from coordinator.domain.devices import Role
from coordinator.protocol import data_rights as messages
from coordinator.protocol import paths, problems
from coordinator.protocol.messages import Id
from coordinator.usecases import data_rights

router = fastapi.APIRouter(prefix=paths.DEVICES + "/{device_id}", tags=["operator"])
_REFUSALS = refusals(*callers.DEVICE, problems.FORBIDDEN, problems.DEVICE_UNKNOWN)


@router.delete(
    "",
    response_model=messages.ErasedDevice,
    responses=_REFUSALS,
    summary="Erase a device",
)
async def erase_device(
    device_id: Id,
    given: Given,
    caller: Annotated[str, fastapi.Depends(callers.device_or(Role.ADMIN))],
) -> messages.ErasedDevice:
    """Shut a device out for good and erase what is kept of it; again is no change.

    An operator calls it, or the device itself, whose credentials are worth nothing
    afterwards. Its results in rounds that still collect are withdrawn. Its id stays,
    with the digest of its key, so that the key cannot come back, and with the times of
    the rounds that it took part in.
    """
    erased = await given.call(
        lambda: data_rights.erase(
            given.store, given.blobs, device_id, by=caller, now=given.clock.now()
        )
    )
    return messages.ErasedDevice(
        id=device_id,
        erased_at=erased.erased_at,
        in_versions=erased.contributions.in_versions,
        under_way=erased.contributions.under_way,
    )


@router.get(
    "/export",
    response_model=messages.DeviceExport,
    responses=_REFUSALS,
    summary="Export what is kept of a device",
)
async def export_device(
    device_id: Id,
    given: Given,
    caller: Annotated[str, fastapi.Depends(callers.device_or(Role.READ))],
) -> messages.DeviceExport:
    """Get all that the database keeps of a device, as an operator or as the device."""
    is_own = caller == device_id
    tables = await given.call(
        lambda: data_rights.export(given.store, device_id, with_secret=is_own)
    )
    return messages.DeviceExport(
        id=device_id,
        exported_at=given.clock.now(),
        leaves_out_secret_rounds=not is_own,
        tables=messages.rows_as_json(tables),
    )
