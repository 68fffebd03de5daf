import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import messages
from shared.errors import MessageError
from shared.messages import (
    Event,
    FrameState,
    Gone,
    HubStatus,
    Rates,
    ReloadState,
    Reply,
    Reported,
    Result,
    SpoolState,
    Status,
    Want,
    decode,
    encode,
)
from tests.fakes.messages import EVENT, EVENT_ID, NOW

REPORTED = Reported(
    time=NOW, agent="0.1.0", boot="b1", project="cells", release=3, floor=3,
    reload=ReloadState(state="failed", release=4, percent=12.5, reason="golden", last_ms=40.5, cosine=0.9),
    spool=SpoolState(
        spooled=9, stored=3, left=2, quarantined=1, dropped=3, unspooled=0, torn=0, bytes=1000, limit=10_000
    ),
    frames=FrameState(captured=100, inferred=90, dropped=10, unreadable=2, ended=True),
    rates=Rates(fps=9.5, low_score=0.1, infer_ms=7.1), clock="unknown", up=1, down=2, errors={"chunk": 3},
    settings={"threshold": 0.6, "fps": 10, "host": "x", "jpeg": False},
)  # fmt: skip
ALL = [
    Status(online=True, boot="0011223344556677"),
    HubStatus(online=True, boot="b", beat=7, beat_s=1.5, sites=["berlin"]),
    EVENT,
    Reply(credit=5, stored=[EVENT_ID], resend={EVENT_ID: [(0, 3), (5, 5)]}, refuse={EVENT_ID: "no"}, pause_ms=7),
    Want(sha256="ab" * 32, ranges=[(0, 4)]),
    Want(project="cells", release=4),
    Result(sequence=1, time=NOW, clock="unsynchronised", label="good", score=1.0, release=3, part="W-7"),
    REPORTED,
    Gone(ids=[EVENT_ID]),
]
KINDS = sorted({type(one) for one in ALL}, key=lambda kind: kind.__name__)


def changed(message: msgspec.Struct, **fields: object) -> bytes:
    return json.dumps({**json.loads(encode(message)), **fields}).encode()


def without(message: msgspec.Struct, field: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(encode(message)).items() if key != field}).encode()


def test_every_message_is_tried_here() -> None:
    kinds = {one for one in vars(messages).values() if isinstance(one, type) and issubclass(one, messages.Message)}
    assert kinds - {messages.Message} == set(KINDS)


@pytest.mark.parametrize("message", ALL, ids=lambda one: type(one).__name__)
def test_round_trip(message: msgspec.Struct) -> None:
    assert decode(encode(message), type(message)) == message
    assert json.loads(encode(message)).get("v", 1) == 1


@pytest.mark.parametrize("message", ALL, ids=lambda one: type(one).__name__)
def test_readers_ignore_what_they_do_not_know(message: msgspec.Struct) -> None:
    assert decode(changed(message, novelty={"deep": [1, {"x": None}]}), type(message)) == message


@pytest.mark.parametrize("message", ALL, ids=lambda one: type(one).__name__)
def test_version_two_is_refused(message: msgspec.Struct) -> None:
    with pytest.raises(MessageError, match=r"^the camera: .*\$\.v"):
        decode(changed(message, v=2), type(message), subject="the camera")


@pytest.mark.parametrize("message", ALL, ids=lambda one: type(one).__name__)
def test_version_may_be_left_out(message: msgspec.Struct) -> None:
    assert decode(without(message, "v"), type(message)) == message


@pytest.mark.parametrize("kind", [Status, Event, Result, Reported])
def test_missing_field_is_named(kind: type[msgspec.Struct]) -> None:
    message = next(one for one in ALL if type(one) is kind)
    required = [field.name for field in msgspec.structs.fields(kind) if field.required]
    assert required
    for field in required:
        with pytest.raises(MessageError, match=rf"^C/x: .*`{field}`") as caught:
            decode(without(message, field), kind, subject="C/x")
        assert caught.value.subject == "C/x"


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (ALL[0], "online", "yes"),
        (ALL[0], "online", 1),
        (ALL[1], "beat", -1),
        (ALL[1], "beat_s", 0),
        (ALL[1], "sites", "berlin"),
        (EVENT, "id", "01890a5d-ac96-474b-bcce-b302099a8057"),
        (EVENT, "id", EVENT_ID.upper()),
        (EVENT, "id", f"../{EVENT_ID}"),
        (EVENT, "id", EVENT_ID + "\n"),
        (EVENT, "project", "a/b"),
        (EVENT, "project", ".."),
        (EVENT, "project", "cells\n"),
        (EVENT, "project", ""),
        (EVENT, "release", -1),
        (EVENT, "release", 1.5),
        (EVENT, "time", "2026-03-01T12:30:01"),
        (EVENT, "time", "yesterday"),
        (EVENT, "clock", "perhaps"),
        (EVENT, "label", "x" * 201),
        (EVENT, "score", 1.01),
        (EVENT, "score", -0.01),
        (EVENT, "scores", {"a": 2}),
        (EVENT, "scores", {str(i): 0 for i in range(1001)}),
        (EVENT, "size", 0),
        (EVENT, "size", -5),
        (EVENT, "sha256", "AB" * 32),
        (EVENT, "sha256", "ab" * 31),
        (EVENT, "sha256", "ab" * 32 + "\n"),
        (EVENT, "ext", "../x"),
        (EVENT, "ext", "png\n"),
        (EVENT, "ext", ""),
        (EVENT, "chunk_size", 255),
        (EVENT, "chunk_size", (1 << 20) + 1),
        (EVENT, "follows", None),
        (ALL[3], "credit", -1),
        (ALL[3], "stored", ["x"]),
        (ALL[3], "stored", EVENT_ID),
        (ALL[3], "resend", {EVENT_ID: [[-1, 3]]}),
        (ALL[3], "resend", {EVENT_ID: [[1]]}),
        (ALL[3], "resend", {EVENT_ID: [[1, 2, 3]]}),
        (ALL[3], "resend", {"x": []}),
        (ALL[3], "pause_ms", -1),
        (ALL[4], "sha256", ".."),
        (ALL[5], "release", 0),
        (ALL[5], "project", "+"),
        (ALL[6], "sequence", "1"),
        (REPORTED, "reload", {"state": "asleep"}),
        (REPORTED, "spool", {}),
        (REPORTED, "settings", {"x": [1]}),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_wrong_value_is_refused_and_named(message: msgspec.Struct, field: str, value: object) -> None:
    with pytest.raises(MessageError, match=rf"^site/cam: .*{field}") as caught:
        decode(changed(message, **{field: value}), type(message), subject="site/cam")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{",
        b"{}x",
        b"\xff\xfe\x00",
        b'{"online": true, "boot": "\xff"}',
        b'{"\xc3\x28": 1}',
        b'{"v": NaN}',
        b'{"v": Infinity, "online": true}',
        b"\x00" * 100,
        b"\xef\xbb\xbf{}",
    ],
    ids=repr,
)
def test_garbage_is_refused(kind: type[msgspec.Struct], data: bytes) -> None:
    if kind in (Reply, Want) and b'"v"' not in data and data.startswith(b'{"'):
        pytest.skip("the field is unknown here, and what is unknown is ignored")
    with pytest.raises(MessageError, match=r"^garbage: "):
        decode(data, kind, subject="garbage")


@pytest.mark.parametrize("field", ["score", "value", "probability"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_is_finite(field: str, value: str) -> None:
    data = changed(EVENT, **{field: "@"}).replace(b'"@"', value.encode())
    with pytest.raises(MessageError):
        decode(data, Event)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("opening", [b'{"unknown":' + b"[" * 100_000, b'{"a":' * 50_000, b"[" * 200_000])
def test_deep_nesting_is_refused(kind: type[msgspec.Struct], opening: bytes) -> None:
    """A RecursionError would end the bus's thread."""
    with pytest.raises(MessageError, match=r"^deep: "):
        decode(opening, kind, subject="deep")


def test_deep_and_well_formed_nesting_is_refused() -> None:
    data = b'{"online": true, "unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(MessageError):
        decode(data, Status)


def test_oversize_is_refused_before_it_is_read() -> None:
    status = encode(Status(online=True))
    padded = status + b" " * (messages.MAX_JSON - len(status))
    assert decode(padded, Status).online
    with pytest.raises(MessageError, match=r"^big: has 262145 bytes, 262144 are allowed"):
        decode(padded + b" ", Status, subject="big")
    with pytest.raises(MessageError, match="8 are allowed"):
        decode(b" " * 9, Status, limit=8)


def test_without_a_subject_the_kind_is_named() -> None:
    with pytest.raises(MessageError, match=r"^HubStatus: "):
        decode(b"{", HubStatus)


def test_times_keep_their_moment() -> None:
    event = decode(changed(EVENT, time="2026-03-01T14:30:01.250000+02:00"), Event)
    assert event.time == NOW


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(EVENT_ID),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(ALL), st.data())
def test_any_value_in_any_field_decodes_or_is_a_message_error(message: msgspec.Struct, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from([one.name for one in msgspec.structs.fields(type(message))]))
    try:
        got: Any = decode(changed(message, **{field: data.draw(json_values)}), type(message))
    except MessageError:
        return
    assert decode(encode(got), type(message)) == got


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_any_bytes_decode_or_are_a_message_error(data: bytes, kind: type[msgspec.Struct]) -> None:
    with contextlib.suppress(MessageError):
        assert isinstance(decode(data, kind), kind)
