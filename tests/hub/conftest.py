"""Fixtures of the hub's tests: a fresh store in a folder of the test's own."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from hub.importer import import_folder
from hub.run import execute
from hub.settings import CollectSettings, HubSettings
from hub.store import Store, open_store
from hub.tables import Run
from shared.clock import SystemClock
from tests.hub.collecting import Hub
from tests.hub.making import CLASSES, picture, settings_in


@pytest.fixture
def settings(tmp_path: Path) -> HubSettings:
    return settings_in(tmp_path)


@pytest.fixture
def store(settings: HubSettings) -> Iterator[Store]:
    made = open_store(settings)
    yield made
    made.close()


@pytest.fixture
def make_hub(settings: HubSettings, store: Store) -> Iterator[Callable[..., Hub]]:
    """Make collectors that run, each at a broker of its own, with these settings under [collect]."""
    made: list[Hub] = []

    def make(*, beat_s: float = 0.05, **collect: object) -> Hub:
        fields = {"image_mb": 1, "partial_mb": 4, **collect}
        hub = Hub(msgspec.structs.replace(settings, collect=CollectSettings(**fields), beat_s=beat_s), store)
        made.append(hub)
        hub.collector.start()
        return hub

    yield make
    for one in made:
        one.collector.stop()


@pytest.fixture
def hub(make_hub: Callable[..., Hub]) -> Hub:
    return make_hub()


CACHE = Path(os.environ.get("HONE_CACHE", Path(__file__).parents[2] / ".hone" / "cache"))


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hub that has drawn images (16 to train on, 44 held out) and one finished run; copy it."""
    folder = tmp_path_factory.mktemp("taught")
    made = settings_in(folder, cache=str(CACHE))
    store = open_store(made)
    for split, count in (("train", 8), ("holdout", 22)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for one in range(count):
                data = picture(one + 1000 * (split == "holdout"), defect=name == "defect")
                (folder / split / name / f"{one}.png").write_bytes(data)
        import_folder(made, store, folder / split, split, SystemClock())
    with store.write() as session:
        session.add(Run(project="cells", why="the first", created_at=SystemClock().utc()))
    execute(made, store, 1, SystemClock())
    store.close()
    return folder


@pytest.fixture
def learned(taught: Path, tmp_path: Path) -> Iterator[tuple[HubSettings, Store]]:
    """A copy of `taught` to change: settings and open store."""
    shutil.copytree(taught / "state", tmp_path / "state")
    made = settings_in(tmp_path, cache=str(CACHE))
    store = open_store(made)
    yield made, store
    store.close()
