"""What a group's text means, and that hub and camera agree on who is in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.progress import Progress, of_stage
from hub.rollout import groups
from hub.seen import CameraView
from hub.settings import RolloutSettings
from hub.stages import Spec, in_group, named_by_size, read_spec
from shared.errors import SettingError
from shared.manifest import NOBODY, Group, Plan, place_of
from tests.hub.making import NOW

RELEASE = 7


def view(name, *, online=True, **labels):
    return CameraView(name, online, 1, "running", 1, "", labels=labels)


# -- specs


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("25%", Spec(percent=25.0)),
        ("0.5%", Spec(percent=0.5)),
        ("100%", Spec(percent=100.0)),
        ("20", Spec(count=20)),
        ("line=3", Spec(labels={"line": "3"})),
        ("line=3,shift=late", Spec(labels={"line": "3", "shift": "late"})),
        ("site=berlin", Spec(labels={"site": "berlin"})),
    ],
)
def test_a_group_is_read(text, spec):
    assert read_spec(text) == spec


@pytest.mark.parametrize(
    "text",
    ["", "0", "0%", "101%", "-5%", "1e2%", "25 %", "line", "line=", "=3", "line=3,", "line=3,10%", "a=b=c", "02", " 3"],
)
def test_what_is_no_group_is_an_error_that_names_the_setting(text):
    with pytest.raises(SettingError, match="is no group") as error:
        read_spec(text)
    assert error.value.subject == "rollout.groups"


# -- hub and camera agree

NAMES = st.sampled_from([f"{site}/cam-{one}" for site in ("berlin", "lyon") for one in range(30)])
LABELS = st.dictionaries(st.sampled_from(["line", "shift", "site"]), st.sampled_from(["1", "3", "berlin", "lyon"]))
SPECS = st.one_of(
    st.floats(0.01, 100).map(lambda one: f"{one:.2f}%").filter(lambda one: float(one[:-1]) > 0),
    st.dictionaries(st.sampled_from(["line", "shift", "site"]), st.sampled_from(["1", "3", "berlin"]), min_size=1).map(
        lambda one: ",".join(f"{key}={value}" for key, value in one.items())
    ),
    st.integers(1, 12).map(str),
)


@given(
    st.lists(SPECS, min_size=1, max_size=4),
    st.dictionaries(NAMES, LABELS, min_size=1, max_size=20),
    st.sets(NAMES, max_size=2),
    st.integers(2, 99),
    st.data(),
)
def test_a_camera_finds_itself_in_the_stage_exactly_when_the_hub_says_so(specs, fleet, canaries, release, data):
    cameras = [view(name, **labels) for name, labels in fleet.items()]
    at = data.draw(st.integers(0, len(specs) - 1))
    taken = set(canaries)
    named = []
    for text in specs[: at + 1]:
        named.append(named_by_size(read_spec(text), release, cameras, taken))
        taken |= set(named[-1])
    progress = Progress(
        release, 1, "group", NOW, canaries=tuple(sorted(canaries)), specs=tuple(specs), group=at, named=tuple(named)
    )
    plan = Plan(
        number=1, created=NOW, expires=NOW, project="cells", stage="group", groups=groups(progress, RolloutSettings())
    )
    inside = {one.name for one in of_stage(progress, cameras)}
    assert inside == {one.name for one in cameras if plan.group_for(one.name, one.labels).release == release}
    assert {plan.group_for(one.name, one.labels).release for one in cameras if one.name not in inside} <= {1}


@given(SPECS.filter(lambda one: not one.isdigit()), NAMES, LABELS)
def test_one_group_alone_holds_whom_the_hub_takes_for_held(text, name, labels):
    spec = read_spec(text)
    group = Group(name="g", release=RELEASE, cameras=[NOBODY], labels=spec.labels, percent=spec.percent)
    assert group.holds(name, labels) == in_group(spec, RELEASE, view(name, **labels), ())


def test_a_site_is_a_label_that_a_camera_cannot_give_itself():
    spec = read_spec("site=berlin")
    assert in_group(spec, RELEASE, view("berlin/a", site="lyon"), ())
    assert not in_group(spec, RELEASE, view("lyon/a", site="berlin"), ())


@given(st.lists(SPECS, min_size=1, max_size=4), NAMES)
def test_an_agent_that_knows_only_names_takes_no_release_from_labels_or_percent(specs, name):
    """An old agent: the first group whose `cameras` name it, or are empty."""
    progress = Progress(
        RELEASE, 1, "group", NOW, canaries=("berlin/first",), specs=tuple(specs), group=len(specs) - 1,
        named=((),) * len(specs),
    )  # fmt: skip
    plan = groups(progress, RolloutSettings())
    assert next(one.release for one in plan if name in one.cameras or not one.cameras) == 1


# -- by size


def test_a_number_of_cameras_is_the_first_by_place_that_are_online_and_not_taken():
    fleet = [view(f"site/{one}", online=one != 5) for one in range(12)]
    order = sorted((one.name for one in fleet if one.online), key=lambda one: place_of(RELEASE, one))
    assert named_by_size(read_spec("4"), RELEASE, fleet, ()) == tuple(order[:4])
    assert named_by_size(read_spec("4"), RELEASE, fleet, order[:3]) == tuple(order[3:7])
    assert len(named_by_size(read_spec("400"), RELEASE, fleet, ())) == 11
    assert named_by_size(read_spec("50%"), RELEASE, fleet, ()) == ()


def test_each_release_has_another_order():
    fleet = [view(f"site/{one}") for one in range(40)]
    assert len({named_by_size(read_spec("3"), release, fleet, ()) for release in range(1, 9)}) > 5


def test_a_share_holds_about_that_share():
    fleet = [view(f"site/{one}") for one in range(2000)]
    inside = sum(in_group(read_spec("10%"), RELEASE, one, ()) for one in fleet)
    assert 150 < inside < 250
