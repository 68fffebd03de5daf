"""What is exported is imported again as it was, in every format."""

import pytest

from hub.exporter import export_data
from hub.importer import FORMATS, import_folder, import_rows, read_list
from hub.store import open_store
from hub.tables import Assignment, Image
from shared.clock import SystemClock
from shared.errors import ConfigError
from tests.hub.making import add_image, get_image, picture, settings_in

CLOCK = SystemClock()
NAMES = {"coco": "coco.json", "csv": "labels.csv", "label-studio": "tasks.json"}


@pytest.fixture
def filled(store):
    """Images of both classes and all splits; one of each is not to be exported."""
    for number, (label, split) in enumerate(
        [("good", "train"), ("defect", "holdout"), ("defect", "pool"), ("good", "pool")]
    ):
        data = picture(number, defect=label == "defect")
        add_image(store, data, label=label, split=split, decided=True, width=64, height=64)
    add_image(store, picture(0), label="good", decided=True, width=64, height=64)  # again from the field
    add_image(store, picture(8), decided=True)
    add_image(store, picture(9), label="crack", decided=True)
    return store


def content(store):
    from sqlmodel import select

    with store.read() as session:
        rows = session.exec(select(Image).where(Image.label.in_(["good", "defect"]))).all()
    return {(one.sha256, one.label, "holdout" if one.split == "holdout" else "train", one.ext) for one in rows}


@pytest.mark.parametrize("kind", FORMATS)
def test_round_trip(settings, filled, tmp_path, kind):
    folder = tmp_path / "out" / "data"
    done = export_data(settings, filled, kind, folder)
    assert (done.images, done.bad) == (4, [])
    second = settings_in(tmp_path / "second")
    store = open_store(second)
    if kind == "folder":
        for split in ("train", "holdout"):
            import_folder(second, store, folder / split, split, CLOCK)
    else:
        rows, bad = read_list(kind, folder / NAMES[kind])
        imported = import_rows(second, store, rows, folder, CLOCK)
        assert (imported.added, imported.known, imported.bad, bad) == (4, 0, [], [])
        once_more = import_rows(second, store, rows, folder, CLOCK)
        assert (once_more.added, once_more.known, once_more.bad) == (0, 4, [])
    assert content(store) == content(filled)
    store.close()


def test_what_is_held_out_stays_held_out(settings, filled, tmp_path):
    held = add_image(filled, picture(30), label="good", decided=True, why="audit")
    with filled.write() as session:
        session.add(Assignment(image_id=held, project="cells", near="9f", side="holdout", since=1))
    export_data(settings, filled, "folder", tmp_path / "out")
    assert (tmp_path / "out" / "holdout" / "good" / f"{get_image(filled, held).sha256}.png").is_file()


def test_an_image_whose_bytes_are_gone_is_told_and_the_others_are_written(settings, filled, tmp_path):
    add_image(filled, label="good", decided=True)
    done = export_data(settings, filled, "csv", tmp_path / "out")
    assert done.images == 4
    assert len(done.bad) == 1
    assert "cannot be read" in done.bad[0].why


def test_a_folder_that_holds_something_is_left_alone(settings, filled, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        export_data(settings, filled, "coco", tmp_path / "out")
    with pytest.raises(ConfigError, match="cannot be written"):
        export_data(settings, filled, "coco", tmp_path / "out" / "mine.txt")
