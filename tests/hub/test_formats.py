"""Lists of labelled images: every row is taken or told, whatever is in the file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.formats import (
    Bad,
    Item,
    Row,
    read_coco,
    read_csv,
    read_label_studio,
    write_coco,
    write_csv,
    write_label_studio,
)
from shared.errors import ConfigError

CLASSES = ["good", "defect, deep", "Kratzer ü"]


def coco(**change):
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png", "split": "holdout"}],
            "annotations": [{"id": 5, "image_id": 1, "category_id": 7}, {"id": 6, "image_id": 1, "category_id": 7}],
            "categories": [{"id": 7, "name": "crack"}, {"id": 8, "name": "stain"}],
            **change,
        }
    ).encode()


def task(image="a.png", *choices, **more):
    result = [{"type": "choices", "value": {"choices": list(choices)}}] if choices else []
    return {"id": 4, "data": {"image": image}, "annotations": [{"result": result, **more}]}


def studio(*tasks):
    return json.dumps(list(tasks)).encode()


def test_a_table():
    text = '\ufeffsplit,Label,path,note\r\ntrain,good,"a, b.png",x\r\n\r\n,defect,c/d.png,"two\nlines"\r\nx,good\r\n'
    rows, bad = read_csv(text.encode())
    assert rows == [Row("line 2", "a, b.png", "good", "train"), Row("line 5", "c/d.png", "defect")]
    assert bad == [Bad("line 6", "has 2 cells, not 4")]


@pytest.mark.parametrize("data", [b"", b"name,class\na,b\n", b"path,label\n\xff\xfe", b'path,label\n"a,b\n'])
def test_what_is_no_table_is_told(data):
    with pytest.raises(ConfigError, match="csv"):
        read_csv(data)


def test_boxes_of_one_category_are_the_images_label():
    rows, bad = read_coco(coco())
    assert rows == [Row("image 1", "a.png", "crack")]
    assert bad == [Bad("image 2", "b.png has no annotation")]


def test_an_image_without_boxes_has_the_class_that_was_named_for_it():
    rows, bad = read_coco(coco(), empty="good")
    assert (rows[1], bad) == (Row("image 2", "b.png", "good", "holdout"), [])


def test_boxes_of_several_categories_are_no_label():
    rows, bad = read_coco(coco(annotations=[{"image_id": 1, "category_id": one} for one in (7, 8)]), empty="good")
    assert [one.path for one in rows] == ["b.png"]
    assert bad == [Bad("image 1", "a.png has annotations of crack, stain")]


def test_annotations_that_lead_nowhere_are_told():
    rows, bad = read_coco(
        coco(annotations=[{"id": 1, "image_id": 9, "category_id": 7}, {"id": 2, "image_id": 1, "category_id": 99}, 3]),
        empty="good",
    )
    assert [one.path for one in rows] == ["b.png"], "image 1 is not good: somebody drew a box on it"
    assert [one.where for one in bad] == ["annotation 1", "annotation 2", "annotation 2", "image 1"]


def test_choices():
    rows, bad = read_label_studio(
        studio(
            task("a.png", "good"),
            task("/data/local-files/?d=cells/b%20c.png", "good", completed_by=3),
            task("file:///data/d%20e.png", "defect"),
            task("f.png", "good", "defect"),
            task("g.png"),
            task("h.png", "good", was_cancelled=True),
            {"id": 9, "data": {"text": "no image"}},
            "nonsense",
        )
    )
    assert [(one.path, one.label) for one in rows] == [
        ("a.png", "good"),
        ("cells/b c.png", "good"),
        ("/data/d e.png", "defect"),
    ]
    assert [one.why for one in bad] == [
        "f.png has choices defect, good",
        "g.png has no choice",
        "h.png has no choice",
        "has no data.image",
        "has no data.image",
    ]


def test_uploads_have_quoted_names_and_what_is_no_address_stays():
    names = ["/data/upload/1/a%20b.png", "/elsewhere/a%20b.png", "a%20b.png", "http://[half/a.png"]
    rows, bad = read_label_studio(studio(*(task(one, "good") for one in names)))
    assert [one.path for one in rows] == ["/data/upload/1/a b.png", *names[1:]]
    assert bad == []


def test_no_split_may_be_written_as_null():
    one = task("a.png", "good")
    one["data"]["split"] = None
    assert read_label_studio(studio(one)) == ([Row("task 4", "a.png", "good")], [])
    images = [{"id": 1, "file_name": "a.png", "split": None}]
    annotations = [{"id": 5, "image_id": 1, "category_id": 7}]
    assert read_coco(coco(images=images, annotations=annotations))[0] == [Row("image 1", "a.png", "crack")]


def test_numbers_of_coco_may_be_written_as_fractions():
    images = [{"id": 1.0, "file_name": "a.png"}, {"id": 2.5, "file_name": "b.png"}, {"id": True, "file_name": "c.png"}]
    annotations = [{"id": 5, "image_id": 1, "category_id": 7.0}]
    rows, bad = read_coco(coco(images=images, annotations=annotations))
    assert rows == [Row("image 1", "a.png", "crack")]
    assert [one.why for one in bad] == ["has no id or no file_name"] * 2


def test_label_studio_finds_what_is_written_for_it():
    items = [Item("images/a b+c%20#1?.png", "good", "train", 3, 4)]
    [written] = json.loads(write_label_studio(items, CLASSES))
    assert written["data"]["image"] == "/data/local-files/?d=images/a%20b%2Bc%2520%231%3F.png"
    assert read_label_studio(write_label_studio(items, CLASSES))[0][0].path == items[0].path


def test_two_who_disagree_are_no_label():
    one = task("a.png", "good")
    one["annotations"] += task("a.png", "defect")["annotations"]
    assert read_label_studio(studio(one)) == ([], [Bad("task 4", "a.png has choices defect, good")])


@pytest.mark.parametrize("read", [read_coco, read_label_studio])
@pytest.mark.parametrize("data", [b"", b"{", b"3", b"\xff", b'{"images": 1}', b"[" * 100_000])
def test_what_is_not_such_a_file_is_told(read, data):
    with pytest.raises(ConfigError):
        read(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "image_id",
                    "category_id",
                    "file_name",
                    "name",
                    "data",
                    "image",
                    "annotations",
                    "result",
                    "value",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4), st.lists(JSON, max_size=4), st.lists(JSON, max_size=3))
def test_whatever_is_inside_no_image_is_passed_over(images, annotations, categories):
    data = json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()
    rows, bad = read_coco(data, "good")
    assert len(rows) + sum(one.where.startswith("image ") for one in bad) == len(images)
    rows, bad = read_label_studio(json.dumps(images).encode())
    assert len(rows) + len(bad) == len(images)


ITEMS = [
    Item("images/a.png", CLASSES[0], "train", 3, 4),
    Item('images/b "1", ü.png', CLASSES[1], "holdout", 30, 40),
    Item("images/c%20d+e&d=f#g.png", CLASSES[2], "train", 1, 1),
]


@pytest.mark.parametrize(
    ("write", "read"), [(write_csv, read_csv), (write_coco, read_coco), (write_label_studio, read_label_studio)]
)
def test_what_is_written_is_read(write, read):
    rows, bad = read(write(ITEMS, CLASSES))
    assert [(one.path, one.label, one.split) for one in rows] == [(one.path, one.label, one.split) for one in ITEMS]
    assert bad == []
