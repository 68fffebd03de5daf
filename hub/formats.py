"""Labelled images as other programs write them down: COCO, CSV, Label Studio JSON. Bytes in, rows out, and back.

One label an image. COCO knows boxes: an image gets the category that all of its annotations have; with several
categories it gets none and is told as such. Without any annotation it gets the class `empty`, where one is named.
Nothing is passed over in silence: what is no row is a `Bad`, with its place and the reason.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from shared.errors import ConfigError

SPLITS = ("train", "holdout")
LOCAL_FILES = "/data/local-files/?d="
"""What Label Studio puts before the quoted path of a file on its own machine."""
UPLOADS = "/data/upload/"
"""Where Label Studio has what was uploaded to it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled image. where: its place in the file, for messages. split: "" where the file does not say."""

    where: str
    path: str
    label: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class Bad:
    """What could not be taken, and why."""

    where: str
    why: str


@dataclass(frozen=True, slots=True)
class Item:
    """A labelled image to write down. path: relative, with "/"; width, height: pixels."""

    path: str
    label: str
    split: str
    width: int
    height: int


Read = tuple[list[Row], list[Bad]]


def read_csv(data: bytes) -> Read:
    """A table in UTF-8 with the columns path, label and, if it likes, split; others are ignored. ConfigError."""
    try:
        table = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        lines = [(table.line_num, cells) for cells in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"is no CSV file in UTF-8 ({error})", subject="csv") from error
    names = [one.strip().lower() for one in lines[0][1]] if lines else []
    if not {"path", "label"} <= set(names):
        raise ConfigError("has no columns path and label", subject="csv", remedy="Begin it with: path,label")
    rows: list[Row] = []
    bad: list[Bad] = []
    for line, cells in lines[1:]:
        if not any(one.strip() for one in cells):
            continue
        if len(cells) != len(names):
            bad.append(Bad(f"line {line}", f"has {len(cells)} cells, not {len(names)}"))
            continue
        found = dict(zip(names, cells, strict=True))
        rows.append(Row(f"line {line}", found["path"], found["label"].strip(), found.get("split", "").strip()))
    return rows, bad


def read_coco(data: bytes, empty: str = "") -> Read:
    """COCO's images, annotations and categories. An image may have a `split` of its own. ConfigError."""
    found = _json(data, "coco")
    if not isinstance(found, dict) or not all(
        isinstance(found.get(one), list) for one in ("images", "annotations", "categories")
    ):
        raise ConfigError("has no lists images, annotations and categories", subject="coco")
    names = {_id(one, "id"): one.get("name") for one in found["categories"] if isinstance(one, dict)}
    known = {_id(one, "id") for one in found["images"]} - {None}
    rows: list[Row] = []
    bad: list[Bad] = []
    labels: dict[int | str | None, set[str]] = defaultdict(set)
    for number, one in enumerate(found["annotations"]):
        where = f"annotation {_id(one, 'id', number)}"
        image, category = _id(one, "image_id"), _id(one, "category_id")
        name = names.get(category) if category is not None else None
        if image not in known:
            bad.append(Bad(where, "is of no image in the file"))
        elif not isinstance(name, str):
            bad.append(Bad(where, "has no category in the file"))
            labels[image].add("")
        else:
            labels[image].add(name)
    for number, one in enumerate(found["images"]):
        where = f"image {_id(one, 'id', number)}"
        if _id(one, "id") is None or not isinstance(one.get("file_name"), str):
            bad.append(Bad(where, "has no id or no file_name"))
            continue
        said = set(labels.get(_id(one, "id"), ())) or ({empty} if empty else set())
        if "" in said:
            bad.append(Bad(where, f"{one['file_name']} has an annotation without a category"))
        elif len(said) == 1:
            rows.append(Row(where, one["file_name"], said.pop(), _split(one)))
        else:
            why = f"has annotations of {', '.join(sorted(said))}" if said else "has no annotation"
            bad.append(Bad(where, f"{one['file_name']} {why}"))
    return rows, bad


def read_label_studio(data: bytes) -> Read:
    """An export of Label Studio in JSON: tasks with one choice for `data.image`, in all annotations the same."""
    found = _json(data, "label-studio")
    if not isinstance(found, list):
        raise ConfigError("is no list of tasks", subject="label-studio", remedy="Export as JSON, not JSON-MIN")
    rows: list[Row] = []
    bad: list[Bad] = []
    for number, task in enumerate(found):
        where = f"task {task.get('id', number) if isinstance(task, dict) else number}"
        about = task.get("data") if isinstance(task, dict) else None
        if not isinstance(about, dict) or not isinstance(about.get("image"), str):
            bad.append(Bad(where, "has no data.image"))
            continue
        said = {choice for one in _list(task.get("annotations")) for choice in _choices(one)}
        if len(said) == 1:
            rows.append(Row(where, _local(about["image"]), said.pop(), _split(about)))
        else:
            why = f"has choices {', '.join(sorted(said))}" if said else "has no choice"
            bad.append(Bad(where, f"{about['image']} {why}"))
    return rows, bad


def write_csv(items: Iterable[Item], classes: Sequence[str]) -> bytes:
    """As `read_csv` reads it."""
    del classes
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["path", "label", "split"])
    table.writerows([one.path, one.label, one.split] for one in items)
    return text.getvalue().encode()


def write_coco(items: Iterable[Item], classes: Sequence[str]) -> bytes:
    """As `read_coco` reads it: the box of an image's one annotation is the whole image."""
    items = list(items)
    images = [
        {"id": number, "file_name": one.path, "width": one.width, "height": one.height, "split": one.split}
        for number, one in enumerate(items, 1)
    ]
    annotations = [
        {
            "id": number,
            "image_id": number,
            "category_id": classes.index(one.label) + 1,
            "bbox": [0, 0, one.width, one.height],
            "area": one.width * one.height,
            "iscrowd": 0,
        }
        for number, one in enumerate(items, 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return _text({"images": images, "annotations": annotations, "categories": categories})


def write_label_studio(items: Iterable[Item], classes: Sequence[str]) -> bytes:
    """As `read_label_studio` reads it. Label Studio shows the images when its LOCAL_FILES_DOCUMENT_ROOT is the folder
    of this file: a path alone it takes for a text."""
    del classes
    return _text(
        [
            {
                "id": number,
                "data": {"image": LOCAL_FILES + quote(one.path), "split": one.split},
                "annotations": [
                    {
                        "result": [
                            {
                                "from_name": "label",
                                "to_name": "image",
                                "type": "choices",
                                "value": {"choices": [one.label]},
                            }
                        ]
                    }
                ],
            }
            for number, one in enumerate(items, 1)
        ]
    )


Write = Callable[[Iterable[Item], Sequence[str]], bytes]
WRITERS: dict[str, tuple[str, Write]] = {
    "coco": ("coco.json", write_coco),
    "csv": ("labels.csv", write_csv),
    "label-studio": ("tasks.json", write_label_studio),
}
"""Format -> the file's name and how it is written."""


def _choices(annotation: Any) -> list[str]:
    """The choices of one annotation that was not cancelled."""
    if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
        return []
    found: list[str] = []
    for one in _list(annotation.get("result")):
        if isinstance(one, dict) and one.get("type") == "choices" and isinstance(one.get("value"), dict):
            found += [choice for choice in _list(one["value"].get("choices")) if isinstance(choice, str)]
    return found


def _local(address: str) -> str:
    """The path in what Label Studio calls a local file or an upload, or in a file URL; anything else as it is."""
    try:
        parts = urlsplit(address)
    except ValueError:  # no address
        return address
    if parts.path.endswith("/data/local-files/") and (found := parse_qs(parts.query).get("d")):
        return found[0]
    quoted = parts.scheme == "file" or address.startswith(UPLOADS)
    return unquote(parts.path) if quoted else address


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is no JSON ({error})", subject=name) from error


def _id(one: Any, name: str, otherwise: int | None = None) -> int | str | None:
    """A whole number, also written as 1.0, or text under this name; `otherwise` where there is none."""
    value = one.get(name) if isinstance(one, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else otherwise


def _split(one: dict[str, Any]) -> str:
    """The split that an image names; "" where it names none."""
    value = one.get("split")
    return "" if value is None else str(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()
