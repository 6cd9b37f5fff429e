"""JSON bodies on what is kept of one device: all of it, and that it is erased."""

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import AwareDatetime, Field

from coordinator.protocol.manifest import Record
from coordinator.protocol.messages import Id


class ErasedDevice(Record):
    """A device of which nothing is kept but that it took part."""

    id: Id
    erased_at: AwareDatetime
    in_versions: int = Field(
        description="Versions that its updates went into. They stay: a sum does not "
        "hold its terms any more. Rounds whose devices coins choose are not counted."
    )
    under_way: int = Field(
        description="Rounds that are being summed up with a result of it, which is "
        "deleted when they end. The same are not counted."
    )


class DeviceExport(Record):
    """All that is kept of a device in the database."""

    id: Id
    exported_at: AwareDatetime
    leaves_out_secret_rounds: bool = Field(
        description="Whether rounds whose devices coins choose are left out: only the "
        "device itself may see its own."
    )
    tables: dict[str, list[dict[str, Any]]] = Field(
        description="Rows by table, values by column. Of its token only a hash is "
        "kept, which is not shown. Bytes are base64. `docs/privacy.md` says what each "
        "table is for, and for how long it is kept."
    )


def rows_as_json(
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, list[dict[str, Any]]]:
    """Return rows by table as JSON has them."""
    return {
        table: [{name: _json(v) for name, v in row.items()} for row in rows]
        for table, rows in tables.items()
    }


def _json(value: Any) -> Any:  # noqa: ANN401 - whatever a column holds, as JSON
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value
