"""Rollouts through API and pages: the hub's own rules on a seeded database."""

import json
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect
from sqlmodel import col, select

from hub.tables import Camera, Exemption, Image, Label, Rollout
from hub.web.app import create_app
from tests.hub.web import rolling
from tests.hub.web.conftest import Watched
from tests.hub.web.seed import Seeded

Open = Callable[..., Watched]


def stages(found: dict) -> list[tuple[str, str]]:
    return [(one["title"], one["place"]) for one in found["stages"]]


def fingerprint(web: TestClient) -> str:
    """The state that a page of releases names, as far as it is about them."""
    page = web.get("/releases").text
    return page.partition("releases%3A")[2].partition("%2C")[0]


def test_a_hub_without_a_rollout_says_so(made: Seeded, tmp_path) -> None:
    from tests.hub.web.seed import seed

    fresh = seed(tmp_path / "fresh", empty=True)
    web = TestClient(
        create_app(fresh.settings, fresh.store, fresh.desk, fresh.actions, fresh.clock), base_url="http://127.0.0.1"
    )
    assert web.get("/api/rollout").status_code == 404
    assert web.get("/api/rollouts").json() == {"total": 0, "limit": 50, "offset": 0, "items": []}
    for path in ("/", "/releases", "/cameras"):
        assert web.get(path).status_code == 200
    for word in ("pause", "resume", "promote"):
        answer = web.post(f"/api/rollout/{word}", json={})
        assert (answer.status_code, answer.json()["error"]) == (409, "rollout")
    fresh.store.close()


def test_a_draft_shows_its_way_and_waits(web: TestClient, made: Seeded) -> None:
    rolling.draft(made)
    found = web.get("/api/rollout").json()
    assert (found["release"], found["previous"], found["stage"], found["state"]) == (5, 4, "draft", "held")
    assert [title for title, _ in stages(found)] == [
        "Draft", "Shadow", "Canary", "10 %", "50 %", "Everyone", "Rolled out",
    ]  # fmt: skip
    assert found["words"] == "Release 5 is a draft: nothing happens until it is started."
    assert found["can"] == ["resume", "promote", "abort"]
    assert web.get("/api/cameras/line-1/top").json()["target"] == 4, "a draft is no plan"
    assert web.post("/api/rollout/pause", json={}).status_code == 409
    assert web.post("/api/rollout/resume", json={}).status_code == 200
    begun = web.get("/api/rollout").json()
    assert (begun["stage"], begun["state"]) == ("shadow", "running")
    assert begun["stages"][1]["cameras"] == ["line-1/top"], "the one that volunteers"


def test_a_shadow_tells_frames_scores_times_and_classes(web: TestClient, made: Seeded) -> None:
    rolling.shadow(made)
    found = web.get("/api/rollout").json()
    assert stages(found)[:3] == [("Draft", "past"), ("Shadow", "now"), ("Canary", "next")]
    [trial] = found["shadow"]
    assert (trial["camera"], trial["beside"], trial["frames"], trial["differed"]) == ("line-1/top", "new", 31, 4)
    assert (trial["old_low"], trial["new_low"]) == (pytest.approx(3 / 31), pytest.approx(2 / 31))
    assert (trial["old_ms"], trial["new_ms"]) == (7.6, 0.4)
    assert trial["new_classes"]["defect"] == pytest.approx(11 / 31)
    assert trial["old_classes"]["defect"] == pytest.approx(7 / 31)
    assert found["waits_for"] == "line-1/top has judged 31 of 50 frames with both"
    assert found["proof"] is None, "what labels prove comes with the canary"
    assert {one["camera"] for one in found["keeping"]} == {"line-1/side", "line-1/top", "line-2/side", "line-2/top"}
    assert found["words"] in web.get("/").text
    camera = web.get("/api/cameras/line-1/top").json()
    assert (camera["target"], camera["trial"]["beside"], camera["trial"]["frames"]) == (4, 5, 31)


def test_a_camera_that_skips_says_why(web: TestClient, made: Seeded) -> None:
    rolling.draft(made)
    made.actions.resume_rollout()
    with made.store.write() as session:
        row = session.exec(select(Rollout).where(Rollout.release == 5)).one()
        row.details = {**row.details, "shadows": ["line-1/top", "line-1/side"]}
        session.add(row)
    rolling.trial(made, "line-1/side", 4, 5, 0, skipped="no memory is left for a second model")
    found = web.get("/api/rollout").json()
    assert found["skipping"] == {"line-1/side": "no memory is left for a second model"}
    assert "line-1/side compares nothing: no memory is left for a second model" in web.get("/releases").text
    assert "no memory is left for a second model" in web.get("/cameras").text


def test_a_canary_tells_pairs_proof_and_who_was_right(web: TestClient, made: Seeded) -> None:
    rolling.canary(made)
    found = web.get("/api/rollout").json()
    proof = found["proof"]
    figures = [proof[one] for one in ("frames", "broken", "mended", "tied", "waiting", "coming", "labels", "verdict")]
    assert figures == [212, 1, 1, 0, 3, 1, 2, "open"]
    assert (proof["error"], proof["margin"], proof["needed"]) == (0.05, 0.02, 20)
    assert [one["camera"] for one in found["keeping"]] == ["line-1/side", "line-2/side", "line-2/top"]
    assert [(one["right"], one["label"], one["new"], one["old"]) for one in found["differences"]] == [
        ("old", "good", "defect", "good"),
        ("new", "defect", "defect", "good"),
    ]
    assert [one["stage"] for one in found["history"]] == ["draft", "shadow", "canary"]
    assert "6 called otherwise" in found["history"][-1]["reason"]
    page = web.get("/releases").text
    assert 'href="/label">3, label them now' in page
    for one in found["differences"]:
        assert f'href="/images/{one["image"]}"' in page


def test_what_is_not_settled_stays_blind(web: TestClient, made: Seeded) -> None:
    rolling.canary(made)
    found = web.get("/api/rollouts/5/differences?limit=2").json()
    assert (found["total"], len(found["items"])) == (5, 2)
    assert {(one["right"], one["new"], one["old"]) for one in found["items"]} == {("open", "", "")}
    waiting = web.get("/api/queue?count=3&operator=Mira").json()["items"]
    assert {one["why"] for one in waiting} == {"pair"}, "pairs come first"
    assert all(one["blind"] and not one["guess"] and not one["scores"] for one in waiting)
    page = web.get("/releases").text
    assert all(f'href="/images/{one["id"]}"' not in page for one in waiting)
    assert web.get("/api/rollouts/77/differences").status_code == 404


def test_proof_grows_with_labels_and_the_page_hears_of_it(web: TestClient, made: Seeded) -> None:
    rolling.canary(made)
    before, seen = web.get("/api/rollout").json()["proof"], fingerprint(web)
    assert seen
    assert fingerprint(web) == seen, "nothing happened"
    image = web.get("/api/queue?operator=Mira").json()["items"][0]["id"]
    web.post("/api/labels", json={"image": image, "name": "good", "operator": "Mira"})
    rolling.look(made)
    after = web.get("/api/rollout").json()["proof"]
    assert after["broken"] == before["broken"] + 1
    assert after["harm"] > before["harm"]
    assert fingerprint(web) != seen


def test_so_many_wait_that_no_more_are_counted(web: TestClient, made: Seeded) -> None:
    web.patch("/api/settings", json={"rollout": {"batch": 3}})
    rolling.canary(made)
    assert web.get("/api/rollout").json()["proof"]["paused"] is True
    assert 'id="paused"' in web.get("/releases").text
    for one in web.get("/api/queue?count=3&operator=Mira").json()["items"]:
        assert one["urgent"]
        web.post("/api/labels", json={"image": one["id"], "name": "good", "operator": "Mira"})
    rolling.look(made)
    assert web.get("/api/rollout").json()["proof"]["paused"] is False
    assert 'id="paused"' not in web.get("/releases").text


def test_worse_goes_back_by_itself_and_says_why(web: TestClient, made: Seeded) -> None:
    rolling.reverted(made)
    found = web.get("/api/rollout").json()
    assert (found["release"], found["kind"], found["reverts"], found["stage"]) == (6, "back", 5, "everyone")
    assert found["gone"].startswith("Release 5 was taken back: it is worse: of 14 frames")
    assert [title for title, _ in stages(found)] == ["Draft", "Everyone", "Rolled out"]
    gone = web.get("/api/rollouts/5").json()
    assert (gone["state"], gone["can"], gone["proof"]["verdict"], gone["proof"]["harm_progress"]) == (
        "reverted", [], "worse", 1,
    )  # fmt: skip
    assert ("Canary", "stopped") in stages(gone)
    assert len(gone["differences"]) == 14
    page = web.get("/releases").text
    assert "Release 5 was taken back." in page
    assert "What release 5 has shown" in page
    assert "Taken back" in page
    assert gone["words"] in web.get("/").text
    assert {one["target"] for one in web.get("/api/cameras").json()} == {6}


def test_history_is_paged_newest_first(web: TestClient, made: Seeded) -> None:
    rolling.reverted(made)
    found = web.get("/api/rollouts").json()
    assert [(one["release"], one["state"]) for one in found["items"]] == [
        (6, "running"), (5, "reverted"), (4, "running"),
    ]  # fmt: skip
    assert found["total"] == 3
    assert [one["release"] for one in web.get("/api/rollouts?limit=1&offset=1").json()["items"]] == [5]
    assert web.get("/api/rollouts/77").status_code == 404
    assert web.get("/api/rollouts?limit=0").status_code == 422


def test_groups_name_their_cameras(web: TestClient, made: Seeded) -> None:
    web.patch("/api/settings", json={"rollout": {"groups": ["line=2", "2"], "shadow": 0}})
    rolling.draft(made)
    made.actions.resume_rollout()
    made.actions.promote_rollout()
    found = web.get("/api/rollout").json()
    assert (found["stage"], found["group"]) == ("group", "line=2")
    by_title = {one["title"]: one for one in found["stages"]}
    assert list(by_title) == ["Draft", "Canary", "line=2", "2 cameras", "Everyone", "Rolled out"]
    assert by_title["line=2"]["cameras"] == ["line-1/top", "line-2/top"], "the canary stays among them"
    assert by_title["2 cameras"]["cameras"] == [], "nobody has counted them out yet"
    targets = {one["name"]: one["target"] for one in web.get("/api/cameras").json()}
    assert [name for name, target in targets.items() if target == 5] == ["line-1/top", "line-2/top"]
    made.actions.promote_rollout()
    found = web.get("/api/rollout").json()
    again = {one["title"]: one for one in found["stages"]}["2 cameras"]
    assert set(again["cameras"]) > {"line-1/top", "line-2/top"}
    assert "2 cameras" in found["words"]


def test_an_operators_words_need_something_to_be_about(web: TestClient, made: Seeded) -> None:
    rolling.shadow(made)
    assert web.post("/api/rollout/pause", json={}).status_code == 200
    refused = web.post("/api/rollout/pause", json={})
    assert (refused.status_code, refused.json()) == (
        409, {"error": "rollout", "message": "project cells: has no rollout that is under way"},
    )  # fmt: skip
    assert web.post("/api/rollout/resume", json={}).status_code == 200
    assert web.post("/api/rollout/resume", json={}).json()["error"] == "rollout"
    assert web.post("/api/rollout/abort", json={}).status_code == 422
    assert web.post("/api/rollout/abort", json={"why": "  "}).status_code == 422
    assert web.post("/api/rollout/abort", json={"why": "a new lens"}).status_code == 200
    found = web.get("/api/rollouts/5").json()
    assert (found["state"], found["reason"]) == ("aborted", "aborted by an operator: a new lens")
    assert found["words"] == "Release 5 was aborted by an operator: a new lens."


def test_an_exemption_shows_and_ends(web: TestClient, made: Seeded) -> None:
    rolling.canary(made)
    path, seen = "/api/cameras/line-2/top/exemption", fingerprint(web)
    ask = {"release": 5, "reason": "its oven is measured", "operator": "Mira"}
    assert web.post(path, json=ask).status_code == 200
    assert fingerprint(web) != seen
    camera = web.get("/api/cameras/line-2/top").json()
    assert (camera["target"], camera["release"], camera["words"]) == (5, 4, "Waits for release 5")
    told = camera["exemption"]
    assert (told["release"], told["reason"], told["operator"], told["taken"]) == (
        5, "its oven is measured", "Mira", False,
    )  # fmt: skip
    assert web.get("/api/rollout").json()["exemptions"] == [told]
    assert "its oven is measured" in web.get("/cameras").text
    assert web.post(path, json={**ask, "release": 9}).json()["message"] == "release 9: does not exist"
    assert web.post(path, json={**ask, "reason": ""}).status_code == 422
    assert web.post("/api/cameras/line-9/top/exemption", json=ask).status_code == 409
    assert web.delete(path).status_code == 200
    assert web.get("/api/cameras/line-2/top").json()["exemption"] is None
    assert web.get("/api/rollout").json()["exemptions"] == []
    with made.store.read() as session:
        row = session.get(Exemption, "line-2/top")
        assert row is not None
        assert row.release == 0, "kept, so that the camera hears of the end"
    assert web.delete("/api/cameras/line-1/side/exemption").status_code == 409


def test_labels_of_cameras_are_told(web: TestClient, made: Seeded) -> None:
    rolling.draft(made)
    assert web.get("/api/cameras/line-1/top").json()["labels"] == {"canary": "yes", "line": "1"}
    assert "canary=yes" in web.get("/cameras").text


def test_a_camera_that_left_a_release_says_so(web: TestClient, made: Seeded) -> None:
    rolling.canary(made)
    with made.store.write() as session:
        camera = session.get(Camera, "line-1/top")
        assert camera is not None
        left = {"state": "reverted", "release": 5, "reason": "it died 3 times"}
        camera.reported, camera.release = {**camera.reported, "reload": left, "release": 4}, 4
        session.add(camera)
    camera = web.get("/api/cameras/line-1/top").json()
    assert (camera["status"], camera["words"]) == ("failed", "Left release 5: it died 3 times")


def test_the_api_is_described(web: TestClient) -> None:
    paths = web.get("/openapi.json").json()["paths"]
    expected = {
        "/api/rollout": {"get"},
        "/api/rollouts": {"get"},
        "/api/rollouts/{release}": {"get"},
        "/api/rollouts/{release}/differences": {"get"},
        "/api/cameras/{site}/{camera}/exemption": {"post", "delete"},
        **{f"/api/rollout/{one}": {"post"} for one in ("pause", "resume", "promote", "abort")},
    }
    for path, methods in expected.items():
        assert set(paths[path]) == methods
        assert all(one["description"] for one in paths[path].values())
    assert "start" in json.dumps(web.get("/openapi.json").json()["components"]["schemas"]["ReleaseAsk"])


# -- in a browser


def test_pause_resume_promote_and_abort_on_the_page(open_page: Open, made: Seeded) -> None:
    rolling.shadow(made)
    page = open_page("/releases").page
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Held", exact=True).first).to_be_visible()
    page.get_by_role("button", name="Resume rollout").click()
    page.get_by_role("button", name="Resume", exact=True).click()
    page.get_by_role("button", name="Promote").click()
    expect(page.get_by_role("dialog")).to_contain_text("whatever has been proven")
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    expect(page.locator(".stages .now").first).to_have_text("Canary")
    page.get_by_role("button", name="Abort").click()
    why = page.get_by_role("dialog").get_by_label("Why, for the record")
    expect(why).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible(), "not without a reason"
    why.fill("the line stands")
    page.keyboard.press("Enter")
    expect(page.locator("#gone")).to_contain_text("Aborted by an operator: the line stands")
    with made.store.read() as session:
        states = [one.state for one in session.exec(select(Rollout).order_by(col(Rollout.id)))]
    assert states == ["running", "reverted", "running"]


def test_a_label_changes_the_open_page_by_itself(open_page: Open, made: Seeded) -> None:
    rolling.canary(made)
    page = open_page("/releases").page
    expect(page.locator("#settle")).to_have_text("3, label them now")
    page.evaluate("document.querySelector('#live').marked = true")
    with made.store.read() as session:
        waiting = session.exec(select(Image.id).where(Image.why == "pair", col(Image.decided).is_(False))).all()
    for image in waiting:
        made.desk.decide(image, "good", operator="Jo")
    rolling.look(made)
    expect(page.locator("#settle")).to_have_count(0)
    expect(page.locator("#h-differences")).to_be_visible()
    expect(page.locator(".grid .tile")).to_have_count(5)
    assert page.evaluate("document.querySelector('#live').marked"), "the page was swapped, not changed in place"


def test_the_desk_says_why_a_pair_is_asked_and_not_what_was_said(open_page: Open, made: Seeded) -> None:
    rolling.canary(made)
    page = open_page("/label").page
    expect(page.locator("#guess")).to_contain_text("Two releases differ")
    expect(page.locator("#guess")).not_to_contain_text("defect")
    expect(page.locator("#buttons .guessed")).to_have_count(0)
    expect(page.locator("#caption")).not_to_contain_text("defect")
    expect(page.locator("#skip")).to_have_attribute("aria-disabled", "false")
    page.keyboard.press("1")
    expect(page.locator("#last")).to_contain_text("good")
    with made.store.read() as session:
        last = session.exec(select(Label).order_by(col(Label.id).desc())).first()
        assert last is not None
        image = session.get(Image, last.image_id)
        assert image is not None
        assert image.why == "pair"


def test_an_exemption_is_set_and_ended_on_the_page(open_page: Open, made: Seeded) -> None:
    rolling.canary(made)
    page = open_page("/cameras").page
    row = page.locator("#exemption-line-1-top")
    row.get_by_role("button", name="Exempt").click()
    dialog = page.locator("#exempt")
    expect(dialog).to_contain_text("It has run release 5 and takes none below.")
    expect(dialog.locator("select")).to_have_value("5")
    expect(dialog.locator("option:not([disabled])")).to_have_count(1)
    expect(dialog.get_by_label("Operator")).to_have_value("Mira")
    dialog.get_by_label("Why").fill("a test on the line")
    page.keyboard.press("Enter")
    expect(row).to_contain_text("a test on the line · Mira")
    row.get_by_role("button", name="End it").click()
    dialog.get_by_label("Why").fill("done")
    dialog.get_by_role("button", name="End it").click()
    expect(row.get_by_role("button", name="Exempt")).to_be_visible()
    with made.store.read() as session:
        row = session.get(Exemption, "line-1/top")
        assert row is not None
        assert (row.release, row.reason, row.operator) == (0, "done", "Mira")


def test_groups_are_edited_on_the_settings_page(open_page: Open, web: TestClient) -> None:
    page = open_page("/settings", strict=False).page
    field = page.locator("#f-rollout-groups")
    expect(field).to_have_value("10%, 50%")
    field.fill("line=3,shift=late, 20,50%")
    page.get_by_role("button", name="Save rollout").click()
    expect(page.locator(".toast")).to_have_text("1 setting in force")
    [groups] = [
        one["value"]
        for section in web.get("/api/settings").json()["sections"]
        for one in section["settings"]
        if one["key"] == "rollout.groups"
    ]
    assert groups == ["line=3,shift=late", "20", "50%"]
    field.fill("a third")
    page.get_by_role("button", name="Save rollout").click()
    expect(page.locator("#e-rollout-groups")).to_contain_text("'a third' is no group")


@pytest.mark.parametrize("what", ["draft", "shadow", "canary", "group", "held", "reverted"])
@pytest.mark.parametrize("path", ["/", "/releases", "/cameras"])
def test_no_page_complains_or_is_too_wide(open_page: Open, made: Seeded, what: str, path: str) -> None:
    getattr(rolling, what)(made)
    for width in (1280, 390):
        page = open_page(path, width=width).page
        expect(page.locator("h1")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
