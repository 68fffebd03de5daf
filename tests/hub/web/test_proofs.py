"""What proves a model, on the page and in the API: holdout, slices, fixed and broken images, the field, drift."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from hub.tables import Camera, HoldoutVersion, Run, Watch
from tests.hub.making import add_image
from tests.hub.web.conftest import Watched
from tests.hub.web.seed import DOUBT, Seeded

Open = Callable[..., Watched]


def audits(made: Seeded, camera: str, release: int, count: int, right: int) -> None:
    for number in range(count):
        label = None if number >= count - 2 else "good" if number < right else "defect"
        add_image(
            made.store, camera=camera, release=release, why="audit", probability=0.01, guess="good", label=label,
            decided=label is not None,
        )  # fmt: skip


def test_the_holdout_by_version(web: TestClient, made: Seeded) -> None:
    newest, first = web.get("/api/holdout").json()
    assert (newest["number"], newest["images"], newest["deciding"], newest["worn"]) == (2, 260, 260, False)
    assert (first["number"], first["images"], newest["verdicts"], newest["limit"]) == (1, 248, 4, 20)
    with made.store.write() as session:
        at = made.clock.utc()
        session.add(HoldoutVersion(project="cells", number=3, base=2, images=265, created_at=at, why="5 new images"))
    newest, second, _ = web.get("/api/holdout").json()
    assert (newest["deciding"], newest["verdicts"], second["verdicts"]) == (5, 0, 4)


@pytest.mark.parametrize("verdicts", [19, 20])
def test_the_page_says_when_the_holdout_is_worn(open_page: Open, made: Seeded, verdicts: int) -> None:
    with made.store.write() as session:
        for _ in range(verdicts - 4):
            session.add(Run(project="cells", state="done", verdict="same", holdout=2, created_at=made.clock.utc()))
    panel = open_page("/runs").page.locator("#holdout")
    expect(panel).to_contain_text("Holdout, version 2")
    expect(panel).to_contain_text(f"{verdicts} of 20 verdicts given")
    expect(panel.get_by_text("Worn")).to_have_count(int(verdicts == 20))


def test_a_run_shows_slices_and_the_images_that_it_fixed_and_broke(open_page: Open, web: TestClient) -> None:
    told = web.get("/api/runs/4").json()
    assert (told["holdout"], told["left_out"], told["fixed"], told["broken"]) == (2, 3, [1, 2, 6, 8, 9], [7, 12])
    page = open_page("/runs/4").page
    expect(page.locator("#h-eval")).to_have_text("On 260 held-out images, version 2")
    few = page.locator("#slices tr", has_text="line-2/side")
    expect(few).to_contain_text("too few")
    dark = next(one for one in told["slices"] if one["name"] == "dark")
    expect(page.locator("#slices tr", has_text="dark")).to_contain_text(f"{dark['accuracy']['value']:.3f}")
    broken = page.locator("#broken img")
    assert broken.count() == 2
    first, second = (broken.nth(one).bounding_box() for one in (0, 1))
    assert first is not None
    assert second is not None
    assert (first["y"], first["x"] < second["x"]) == (second["y"], True), "beside each other"
    broken.first.scroll_into_view_if_needed()
    expect(broken.first).to_have_js_property("complete", True)
    broken.first.click()
    expect(page.locator("h1")).to_have_text("Image 7")


def test_doubtful_scores_are_marked_wherever_they_are_shown(open_page: Open, web: TestClient) -> None:
    assert web.get("/api/runs/1").json()["doubt"] == DOUBT
    expect(open_page("/runs/1").page.locator("#doubt")).to_have_text(DOUBT + ".")
    expect(open_page("/runs").page.locator("#run-1")).to_contain_text("version 1, doubtful")
    released = open_page("/releases").page.locator("#release-1")
    expect(released).to_contain_text("judged on holdout version 1")
    expect(released).to_contain_text(DOUBT)


def test_an_image_says_on_which_side_it_is(open_page: Open, web: TestClient) -> None:
    found = web.get("/api/images/6").json()
    assert (found["side"], found["since"]) == ("holdout", 1)
    assert (web.get("/api/images/1").json()["side"], web.get("/api/images/9").json()["side"]) == ("", "out")
    expect(open_page("/images/6").page.locator("#live")).to_contain_text("held out, since version 1")


def test_the_field_is_told_by_release_and_camera(open_page: Open, web: TestClient, made: Seeded) -> None:
    audits(made, "line-1/top", 4, 42, 36)
    audits(made, "line-2/top", 4, 10, 4)
    everyone, top, few = (one for one in web.get("/api/field").json() if one["release"] == 4)
    assert (everyone["camera"], everyone["audits"], everyone["labelled"]) == ("", 52, 48)
    assert (top["camera"], top["accuracy"]["value"], top["labelled"]) == ("line-1/top", 0.9, 40)
    assert (few["camera"], few["accuracy"]) == ("line-2/top", None)
    table = open_page("/cameras").page.locator("#field")
    expect(table.locator("tr", has_text="line-1/top").first).to_contain_text("0.900")
    expect(table.locator("tr", has_text="line-2/top").first).to_contain_text("too few labels")


def test_drift_is_told_by_camera_and_shown_as_it_comes(open_page: Open, web: TestClient, made: Seeded) -> None:
    same, other = web.get("/api/drift").json()
    assert (same["camera"], same["drifted"], other["camera"], other["drifted"]) == (
        "line-1/top",
        False,
        "line-2/top",
        True,
    )
    assert [one["name"] for one in other["measures"]] == ["low_score", "class_mix", "embedding"]
    page = open_page("/cameras").page
    row = page.locator("#drift-line-1-top")
    expect(row).to_contain_text("As before")
    expect(page.locator("#drift-line-2-top")).to_contain_text("Drifted")
    expect(page.locator("#drift-line-2-side")).to_contain_text("Not enough audit images of this release yet")
    with made.store.write() as session:
        look = session.get(Watch, "line-1/top")
        assert look is not None
        look.data, look.at = {**look.data, "drifted": True}, look.at + timedelta(minutes=5)
        session.add(look)
    expect(row).to_contain_text("Drifted", timeout=8000)


def test_a_look_at_an_earlier_release_says_nothing_of_this_one(open_page: Open, made: Seeded) -> None:
    with made.store.write() as session:
        look = session.get(Watch, "line-2/top")
        assert look is not None
        look.release, look.data = 2, {**look.data, "release": 2}
        session.add(look)
    row = open_page("/cameras").page.locator("#drift-line-2-top")
    expect(row).to_contain_text("Not enough audit images of this release yet")


def test_losses_of_the_random_sample_are_told_where_it_is_used(open_page: Open, web: TestClient, made: Seeded) -> None:
    audits(made, "line-1/top", 3, count=40, right=36)
    audits(made, "line-1/side", 3, count=40, right=36)
    whole = web.get("/api/cameras/line-1/top").json()
    assert (whole["audit_left"], whole["audit_dropped"], whole["audit_unspooled"], whole["audit_words"]) == (
        0,
        0,
        0,
        "",
    )
    assert 'id="spoilt"' not in web.get("/cameras").text
    with made.store.write() as session:
        camera = session.get(Camera, "line-1/top")
        assert camera is not None
        spool = {**camera.reported["spool"], "audit_left": 3, "audit_dropped": 7, "audit_unspooled": 2}
        camera.reported = {**camera.reported, "spool": spool}
        session.add(camera)
    told = web.get("/api/cameras/line-1/top").json()
    assert (told["audit_left"], told["audit_dropped"], told["audit_unspooled"]) == (3, 7, 2)
    page = open_page("/cameras").page
    expect(page.locator("#spoilt li")).to_have_text(f"line-1/top: {told['audit_words']}")
    expect(page.locator("#spoilt")).to_contain_text("7 dropped from its spool, 2 not written since its start")
    rows = page.locator("#field tbody tr")
    for camera, lost in (("all cameras", "9"), ("line-1/top", "9"), ("line-1/side", "0")):
        expect(rows.filter(has_text=camera).locator("td").last).to_have_text(lost)
    expect(open_page("/").page.locator("#camera-line-1-top")).to_contain_text("9 of the audit lost")


def test_a_camera_that_has_not_reported_says_nothing_of_its_audit(web: TestClient) -> None:
    assert web.get("/api/cameras/line-3/rework").json()["audit_dropped"] is None
