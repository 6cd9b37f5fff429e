"""What every test of the numerics needs."""

import pytest

from coordinator.compute.backend import ComputeDevice, select_device


@pytest.fixture(scope="session")
def device() -> ComputeDevice:
    return select_device("cpu")
