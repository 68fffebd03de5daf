"""Settings of a camera in a folder of the test's own, and the keys that its hub signs with."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edge.settings import EdgeSettings
from tests.fakes.camera import CAMERA
from tests.fakes.clock import FakeClock
from tests.fakes.hub import Registry


@pytest.fixture(scope="session")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the hub's keys are, made once."""
    return tmp_path_factory.mktemp("hub") / "keys"


@pytest.fixture
def make_settings(tmp_path: Path, key_folder: Path) -> Callable[..., EdgeSettings]:
    """Settings whose state is in the test's folder; other fields as given."""

    def make(**fields: object) -> EdgeSettings:
        whole = {
            "camera": CAMERA,
            "project": "cells",
            "root_key": Registry(key_folder, None, FakeClock()).root,  # type: ignore[arg-type]
            "capture": {"source": str(tmp_path)},
            "state": str(tmp_path / "state"),
            "clock": "trusted",
            **fields,
        }
        return msgspec.convert(whole, EdgeSettings)

    return make
