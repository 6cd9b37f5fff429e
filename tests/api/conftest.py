"""The running application, on SQLite: what differs by database lies below the API."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.federation import Federation
from tests.support.http import Api, serve


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest_asyncio.fixture
async def api(federation: Federation) -> AsyncIterator[Api]:
    async with serve(federation) as running:
        yield running
