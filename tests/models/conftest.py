"""Warnings of TensorFlow's that no test here is about."""

import pytest

_NOISE = (
    # Keras 3 hands NumPy a deprecated argument when it reads weights
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    # TensorFlow's and Keras's own modules
    "ignore::DeprecationWarning:tensorflow.*",
    "ignore::DeprecationWarning:keras.*",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/models" in item.path.as_posix():
            for noise in _NOISE:
                item.add_marker(pytest.mark.filterwarnings(noise))
