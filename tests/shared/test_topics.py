import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import topics
from shared.errors import MessageError, TopicError
from shared.topics import BlobTopic, CameraTopic, ChunkTopic, HubTopic, PlanTopic, ReleaseTopic
from tests.fakes.bus import matches

EVENT = "01890a5d-ac96-774b-bcce-b302099a8057"
SHA = "0123456789abcdef" * 4

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
cameras = st.builds("{}/{}".format, names, names)
events = st.from_regex(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", fullmatch=True)
hashes = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
numbers = st.integers(0, 999_999_999)


def test_examples_in_docstring() -> None:
    assert doctest.testmod(topics).failed == 0
    assert doctest.testmod(topics).attempted > 2


@given(cameras, st.sampled_from(topics.CAMERA_LEAVES))
def test_camera_topics_round_trip(camera: str, leaf: str) -> None:
    assert topics.parse(getattr(topics, leaf)(camera)) == CameraTopic(camera, leaf)


@given(cameras, events, numbers)
def test_chunk_round_trips(camera: str, event: str, index: int) -> None:
    assert topics.parse(topics.chunk(camera, event, index)) == ChunkTopic(camera, event, index)


@given(names, hashes, numbers)
def test_hub_topics_round_trip(name: str, sha256: str, number: int) -> None:
    assert topics.parse(topics.hub_status(name)) == HubTopic(name)
    assert topics.parse(topics.release(name, number)) == ReleaseTopic(name, number)
    assert topics.parse(topics.plan(name)) == PlanTopic(name)
    assert topics.parse(topics.blob(sha256, number)) == BlobTopic(sha256, number)


@given(cameras, events, numbers)
def test_a_hub_hears_what_a_camera_says_and_not_its_own_words(camera: str, event: str, index: int) -> None:
    def heard(topic: str) -> int:
        return sum(matches(one, topic) for one in {*topics.uploads(), *topics.states()})

    for leaf in ("status", "reported", "event", "gone", "want"):
        assert heard(getattr(topics, leaf)(camera)) == 1
    assert heard(topics.chunk(camera, event, index)) == 1
    assert heard(topics.reply(camera)) == heard(topics.desired(camera)) == heard(topics.result(camera)) == 0


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "hone",
        "home/camera/a/b/event",
        "hone/camera/a/b",
        "hone/camera/a/b/event/",
        "/hone/camera/a/b/event",
        "hone/camera/a/b/event/extra",
        "hone/camera/a/b/nonsense",
        "hone/camera/a/b/chunk",
        "hone/camera//b/event",
        "hone/camera/a//event",
        "hone/camera/+/b/event",
        "hone/camera/a/#",
        "hone/camera/#/b/event",
        "hone/camera/../b/event",
        "hone/camera/a/../event",
        "hone/camera/a/.hidden/event",
        "hone/camera/a/b\0/event",
        "hone/camera/a/b\n/event",
        "hone/camera/a b/c/event",
        "hone/camera/ä/b/event",
        "hone/camera/a/b\u202e/event",
        f"hone/camera/{'a' * 64}/b/event",
        f"hone/camera/a/b/chunk/{EVENT}/-1",
        f"hone/camera/a/b/chunk/{EVENT}/+1",
        f"hone/camera/a/b/chunk/{EVENT}/1.5",
        f"hone/camera/a/b/chunk/{EVENT}/",
        f"hone/camera/a/b/chunk/{EVENT}/1e3",
        f"hone/camera/a/b/chunk/{EVENT}/１",
        f"hone/camera/a/b/chunk/{EVENT}/²",
        f"hone/camera/a/b/chunk/{EVENT}/{'9' * 10}",
        f"hone/camera/a/b/chunk/{EVENT}/{'9' * 10_000}",
        f"hone/camera/a/b/chunk/{EVENT.upper()}/1",
        f"hone/camera/a/b/chunk/{EVENT[:-1]}/1",
        f"hone/camera/a/b/chunk/{EVENT.replace('-7', '-4')}/1",
        "hone/camera/a/b/chunk/../1",
        f"hone/blob/{SHA.upper()}/1",
        f"hone/blob/{SHA[:-1]}/1",
        f"hone/blob/{SHA}\n/1",
        f"hone/blob/{SHA}/",
        "hone/hub//status",
        "hone/hub/+/status",
        "hone/hub/..",
        "hone/release/p/one",
        "hone/release/p/",
        "hone/release//1",
        "hone/plan/",
        "hone/plan/a/b",
        "$SYS/broker/uptime",
    ],
)
def test_hostile_topics_are_refused(topic: str) -> None:
    with pytest.raises(TopicError) as caught:
        topics.parse(topic)
    assert isinstance(caught.value, MessageError)
    assert caught.value.subject == topic


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(topic: str) -> None:
    try:
        topics.parse(topic)
    except TopicError:
        return
    assert topic.startswith("hone/")


levels = st.one_of(names, hashes, events, st.sampled_from(["hone", "camera", "chunk", "hub", "release", "+", "#", ""]))


@given(st.lists(levels | numbers.map(str), max_size=8).map("/".join))
def test_what_is_parsed_is_one_of_ours(topic: str) -> None:
    try:
        parsed = topics.parse(topic)
    except TopicError:
        return
    assert topic == _build(parsed)


@pytest.mark.parametrize("number", ["007", "00", "000000001"])
def test_a_number_has_one_spelling(number: str) -> None:
    """Two topics for one chunk would be two retained messages for it."""
    with pytest.raises(TopicError):
        topics.parse(f"hone/blob/{SHA}/{number}")


def _build(parsed: topics.Topic) -> str:
    match parsed:
        case CameraTopic(camera, leaf):
            return str(getattr(topics, leaf)(camera))
        case ChunkTopic(camera, event, index):
            return topics.chunk(camera, event, index)
        case HubTopic(name):
            return topics.hub_status(name)
        case ReleaseTopic(project, number):
            return topics.release(project, number)
        case PlanTopic(project):
            return topics.plan(project)
        case BlobTopic(sha256, index):
            return topics.blob(sha256, index)
