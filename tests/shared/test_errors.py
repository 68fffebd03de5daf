import inspect
import re

import pytest

from shared import errors
from shared.errors import HoneError

CLASSES = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, HoneError)]


def drawn_tree() -> dict[str, str]:
    """Class -> base class, as the module's docstring draws it."""
    parents: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^ {4}([│├└─ ]*)([A-Z]\w*)(?:\s|$)", line)
        if not found:
            continue
        depth, name = len(found[1]) // 4, found[2]
        while stack and stack[-1][0] >= depth:
            stack.pop()
        parents[name] = stack[-1][1] if stack else "Exception"
        stack.append((depth, name))
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn_tree() == {one.__name__: one.__bases__[0].__name__ for one in CLASSES}


def test_codes_are_short_and_unique() -> None:
    codes = [one("x").code for one in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.HashMismatchError, "hash_mismatch"),
        (errors.ChunkError, "chunk"),
        (errors.TooLargeError, "too_large"),
        (errors.PortInUseError, "port_in_use"),
        (errors.OldReleaseError, "old_release"),
        (errors.UnknownCameraError, "unknown_camera"),
        (HoneError, "hone"),
    ],
)
def test_code_names(kind: type[HoneError], code: str) -> None:
    assert kind("x").code == code


def test_an_error_says_what_to_what_and_what_to_do() -> None:
    error = errors.SpoolError("is full", subject="spool", remedy="Make room")
    assert str(error) == "spool: is full. Make room"
    assert (error.what, error.subject, error.remedy) == ("is full", "spool", "Make room")
    assert str(errors.SpoolError("is full")) == "is full"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_is_described(kind: type[HoneError]) -> None:
    assert kind.__doc__
    assert kind.__doc__.endswith(".")
