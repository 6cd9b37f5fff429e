"""What HTTP, a disk and a database cost without a coordinator.

Two routes on the server that the coordinator runs on: one only reads a body into a file
and waits for the disk, one only inserts a row and waits for the disk. Run by
``benchmarks.ingest`` as ``python -m benchmarks.floor PORT FOLDER``.
"""

import os
import pathlib
import sqlite3
import sys
import threading
import uuid

import fastapi
import pydantic
import sqlalchemy as sa
import uvicorn
from sqlalchemy import event
from starlette.concurrency import run_in_threadpool

BODY = "/body"
ROW = "/row"
READY = "/readyz"


class Row(pydantic.BaseModel):
    """What is inserted."""

    device: str
    wait_s: float


class Answer(pydantic.BaseModel):
    """That it was."""

    id: str


def create(folder: pathlib.Path) -> fastapi.FastAPI:
    """Return the application; its files and its database lie in ``folder``."""
    app = fastapi.FastAPI()
    metadata = sa.MetaData()
    table = sa.Table(
        "rows",
        metadata,
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("wait_s", sa.Float, nullable=False),
    )
    engine = sa.create_engine(f"sqlite:///{folder / 'floor.db'}")

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=15000"):
            connection.execute(f"PRAGMA {pragma}")

    metadata.create_all(engine)
    insert = table.insert()
    writer = threading.Lock()

    @app.post(BODY)
    async def body(request: fastapi.Request) -> Answer:
        name = uuid.uuid4().hex
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            async for chunk in request.stream():
                os.write(descriptor, chunk)
            await run_in_threadpool(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        return Answer(id=name)

    @app.post(ROW)
    def row(row: Row) -> Answer:
        name = uuid.uuid4().hex
        # SQLite has one writer; those that wait in its busy handler sleep too long.
        with writer, engine.begin() as connection:
            connection.execute(insert, {"id": name, **row.model_dump()})
        return Answer(id=name)

    @app.get(READY)
    async def ready() -> None:
        return None

    return app


if __name__ == "__main__":
    uvicorn.run(
        create(pathlib.Path(sys.argv[2])),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
