"""Fixtures for all tests: a clock that is told the time, and real brokers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from shared.litert import Interpreter
from tests.fakes.clock import FakeClock
from tests.fakes.mosquitto import Mosquitto

settings.register_profile(
    "hone", deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hone")


def pytest_report_header() -> str:
    """Which of the two runtimes runs the models."""
    return f"runtime: {Interpreter.__module__}, numpy {np.__version__}"


@pytest.fixture
def clock() -> FakeClock:
    """A clock that moves only when the test says so."""
    return FakeClock()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A running mosquitto that all tests share: use client ids and topics of your own, and do not kill it."""
    one = Mosquitto(tmp_path_factory.mktemp("broker"))
    one.start()
    yield one
    one.stop()


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[[], Mosquitto]]:
    """Make brokers of the test's own, not started yet, to kill and restart at will."""
    made: list[Mosquitto] = []

    def make() -> Mosquitto:
        made.append(Mosquitto(tmp_path / f"broker-{len(made)}"))
        return made[-1]

    yield make
    for one in made:
        one.stop()
