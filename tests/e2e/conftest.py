import pytest


@pytest.fixture
def process_database_url():
    return None
