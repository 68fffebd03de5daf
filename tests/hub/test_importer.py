"""An import adds every image of a folder once, labelled, or nothing at all."""

import pytest
from sqlmodel import select

from hub.importer import import_folder, import_rows, read_list
from hub.tables import Image, Label
from shared.errors import ConfigError, ImageError, StoreError
from shared.files import sha256_hex
from tests.hub.making import NOW, picture


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "images"
    for number, name in enumerate(("good", "defect")):
        (made / name).mkdir(parents=True)
        for one in range(3):
            (made / name / f"{one}.png").write_bytes(picture(10 * number + one, defect=bool(number)))
    return made


def rows(store):
    with store.read() as session:
        return session.exec(select(Image).order_by(Image.id)).all()


def labels(store):
    with store.read() as session:
        return session.exec(select(Label).order_by(Label.id)).all()


def test_every_image_is_stored_with_its_label(settings, store, folder, clock):
    clock.set_utc(NOW)
    told = []
    assert import_folder(settings, store, folder, "holdout", clock, progress=lambda *args: told.append(args)) == (6, 0)
    assert told[-1] == (6, 6)
    for row, (path, name) in zip(
        rows(store), [(path, path.parent.name) for path in sorted(folder.glob("*/*.png"))], strict=True
    ):
        data = path.read_bytes()
        assert (row.sha256, row.size, row.ext, row.label) == (sha256_hex(data), len(data), "png", name)
        assert store.blobs.read(row.sha256) == data
        assert (row.split, row.state, row.decided, row.camera, row.project) == (
            "holdout", "verified", True, "", "cells",
        )  # fmt: skip
        assert (row.width, row.height, row.received_at) == (64, 64, NOW)
    assert [(one.name, one.operator) for one in labels(store)] == [("defect", "import")] * 3 + [("good", "import")] * 3


def test_a_second_import_adds_nothing(settings, store, folder, clock):
    import_folder(settings, store, folder, "train", clock)
    before = [(one.id, one.split) for one in rows(store)]
    assert import_folder(settings, store, folder, "train", clock) == (0, 6)
    (folder / "good" / "3.png").write_bytes(picture(99))
    assert import_folder(settings, store, folder, "train", clock) == (1, 6)
    assert [(one.id, one.split) for one in rows(store)][:6] == before
    assert len(labels(store)) == 7


def test_the_same_bytes_twice_in_a_folder_are_one_image(settings, store, folder, clock):
    (folder / "good" / "copy.png").write_bytes((folder / "good" / "0.png").read_bytes())
    assert import_folder(settings, store, folder, "train", clock) == (6, 1)


def test_more_than_a_batch(settings, store, tmp_path, clock):
    (tmp_path / "many" / "good").mkdir(parents=True)
    for one in range(70):
        (tmp_path / "many" / "good" / f"{one:03}.PNG").write_bytes(picture(one, side=16))
    assert import_folder(settings, store, tmp_path / "many", "train", clock) == (70, 0)


def test_other_files_are_left_alone(settings, store, folder, clock):
    (folder / "readme.txt").write_text("hello")
    (folder / "good" / "notes.txt").write_text("hello")
    assert import_folder(settings, store, folder, "train", clock) == (6, 0)


def test_a_folder_that_is_no_class_is_named_and_nothing_is_imported(settings, store, folder, clock):
    (folder / "zcrack").mkdir()
    with pytest.raises(ConfigError, match=r"zcrack: is not a class of project cells.*good, defect"):
        import_folder(settings, store, folder, "train", clock)
    assert rows(store) == []
    assert list(store.blobs.all()) == []


def test_a_broken_image_is_named_and_nothing_is_imported(settings, store, folder, clock):
    (folder / "good" / "9.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"good/9.png: .*nothing was imported"):
        import_folder(settings, store, folder, "train", clock)
    assert rows(store) == []
    assert list(store.blobs.all()) == []


@pytest.mark.parametrize(
    "make", [lambda _: None, lambda p: p.write_text("x"), lambda p: (p / "good").mkdir(parents=True)]
)
def test_a_folder_without_images_says_so(settings, store, tmp_path, clock, make):
    make(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"none: (is not a folder|holds no images)"):
        import_folder(settings, store, tmp_path / "none", "train", clock)


def test_a_full_disk_leaves_no_row_without_its_blob(settings, store, folder, clock):
    store.blobs.folder.rmdir()
    store.blobs.folder.write_text("a file where the folder belongs")
    with pytest.raises(StoreError):
        import_folder(settings, store, folder, "train", clock)
    assert rows(store) == []


# -- lists


def listed(folder, rows):
    """Rows of a CSV file in `folder`, with the images that they name."""
    folder.mkdir(exist_ok=True)
    for number, (path, label, _) in enumerate(rows):
        if not (folder / path).exists() and path.startswith("img"):
            (folder / path).write_bytes(picture(number, defect=label == "defect"))
    text = "path,label,split\n" + "".join(f"{','.join(row)}\n" for row in rows)
    (folder / "labels.csv").write_text(text)
    return read_list("csv", folder / "labels.csv")[0]


def test_every_row_is_added_known_or_told(settings, store, tmp_path, clock):
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "broken.png").write_bytes(b"no image")
    rows = listed(
        tmp_path / "list",
        [
            ("img0.png", "good", ""),
            ("img1.png", "defect", "holdout"),
            ("img0.png", "good", ""),
            ("img0.png", "defect", ""),
            ("img1.png", "defect", "train"),
            ("img5.png", "crack", ""),
            ("img6.png", "good", "test"),
            ("missing.png", "good", ""),
            ("broken.png", "good", ""),
            ("https://example.org/a.png", "good", ""),
            ("uploads/7/img1.png", "defect", "holdout"),
        ],
    )
    done = import_rows(settings, store, rows, tmp_path / "list", clock, split="train")
    assert (done.added, done.known) == (2, 2)
    assert [(one.where, one.why.partition(": ")[2]) for one in done.bad] == [
        ("line 7", "'crack' is not one of good, defect"),
        ("line 8", "'test' is not one of train, holdout"),
        ("line 9", "cannot be read (No such file or directory)"),
        ("line 10", "cannot be decoded"),
        ("line 11", "is not on this machine"),
        ("line 5", "defect in train, but it is there already as good in train; that stays"),
        ("line 6", "defect in train, but it is there already as defect in holdout; that stays"),
    ]
    assert done.added + done.known + len(done.bad) == len(rows)


def test_rows_without_a_split_need_one(settings, store, tmp_path, clock):
    rows = listed(tmp_path / "list", [("img0.png", "good", "")])
    with pytest.raises(ConfigError, match="does not say what is for training"):
        import_rows(settings, store, rows, tmp_path / "list", clock)


def test_a_list_that_is_not_there_or_of_another_format(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.json: cannot be read"):
        read_list("coco", tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"x\.json: has no lists images, annotations and categories"):
        read_list("coco", tmp_path / "x.json")
    assert read_list("label-studio", tmp_path / "x.json") == ([], [])
