"""Settings over the API and on the page: in force at once, and every mistake told with what is allowed."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect
from sqlmodel import select

from hub.options import options
from hub.policies import Policies
from hub.settings import RolloutSettings
from hub.tables import Camera
from shared.policy import TriageSettings, to_wire
from tests.hub.web.conftest import Watched
from tests.hub.web.seed import Seeded

Open = Callable[..., Watched]


@pytest.fixture
def policies(made: Seeded) -> Policies:
    return Policies(made.settings, made.store, made.clock)


def by_key(answer: dict) -> dict[str, dict]:
    return {one["key"]: one for section in answer["sections"] for one in section["settings"]}


def test_all_settings_are_listed_with_all_there_is_to_know(web: TestClient) -> None:
    answer = web.get("/api/settings").json()
    found = by_key(answer)
    assert (answer["version"], answer["changed_at"], set(found)) == (0, None, set(options()))
    assert found["triage.low_score"] == {
        "key": "triage.low_score",
        "name": "low_score",
        "kind": "number",
        "value": 0.8,
        "source": "default",
        "file": 0.8,
        "default": 0.8,
        "allowed": "number from 0 to 1",
        "choices": [],
        "low": 0.0,
        "high": 1.0,
        "doc": "a confidence score below this.",
    }


def test_a_merge_changes_what_it_names_and_delete_takes_it_back(web: TestClient, policies: Policies) -> None:
    merge = {"triage": {"low_score": 0.7}, "train": {"l2": [0.1], "folds": 3}}
    answer = web.patch("/api/settings", json=merge, params={"operator": "Mira"})
    assert answer.status_code == 200
    found = by_key(answer.json())
    assert (found["train.l2"]["value"], found["train.l2"]["source"], found["train.seed"]["source"]) == (
        [0.1],
        "project",
        "default",
    )
    assert (answer.json()["version"], answer.json()["operator"]) == (1, "Mira")
    now = policies.now()
    assert (now.triage, now.train.l2, now.train.folds) == (TriageSettings(low_score=0.7), (0.1,), 3)
    assert web.patch("/api/settings", json={"train": {"folds": None}}).json()["version"] == 2
    for _ in range(2):
        back = web.delete("/api/settings/triage.low_score")
        assert (back.status_code, back.json()["version"]) == (200, 3), "again changes nothing"
    assert policies.now().triage is None
    told = web.get("/api/settings/history").json()
    assert [(one["version"], one["key"], one["value"], one["before"], one["cleared"]) for one in told] == [
        (3, "triage.low_score", None, 0.7, True),
        (2, "train.folds", None, 3, True),
        (1, "train.folds", 3, None, False),
        (1, "train.l2", [0.1], None, False),
        (1, "triage.low_score", 0.7, None, False),
    ]


def test_wrong_values_name_the_field_and_what_is_allowed(web: TestClient, policies: Policies) -> None:
    merge = {"triage": {"low_score": 3}, "train": {"folds": "many", "seed": 4}, "rollout": {"speed": 1}}
    answer = web.patch("/api/settings", json=merge)
    assert answer.status_code == 422
    allowed = ", ".join(f"rollout.{one}" for one in RolloutSettings.__struct_fields__)
    assert answer.json() == {
        "error": "setting",
        "message": f"rollout.speed is no setting; allowed: {allowed}",
        "fields": {"rollout.speed": f"is no setting; allowed: {allowed}"},
    }
    del merge["rollout"]
    answer = web.patch("/api/settings", json=merge)
    assert answer.json()["fields"] == {
        "triage.low_score": "is 3; allowed: number from 0 to 1",
        "train.folds": 'is "many"; allowed: whole number from 2 to 100',
    }
    assert policies.in_force().version == 0, "not even what was right"
    unknown = web.delete("/api/settings/triage.nothing")
    assert (unknown.status_code, unknown.json()["error"]) == (404, "not_found")
    assert web.patch("/api/settings", json=[1]).json()["error"] == "invalid"
    endless = web.patch(
        "/api/settings", content=b'{"train": {"shrinkage": NaN}}', headers={"content-type": "application/json"}
    )
    assert (endless.status_code, list(endless.json()["fields"])) == (422, ["train.shrinkage"])


def test_only_our_own_page_may_change_settings(web: TestClient, policies: Policies) -> None:
    foreign = {"origin": "http://elsewhere.example"}
    assert web.patch("/api/settings", json={"train": {"folds": 3}}, headers=foreign).status_code == 403
    assert web.delete("/api/settings/train.folds", headers=foreign).status_code == 403
    assert web.request("DELETE", "/api/settings/train.folds", content=b"x").status_code == 415
    assert policies.in_force().version == 0


def test_pages_tell_the_rules_in_force(web: TestClient) -> None:
    assert "A run starts by itself after 50 new labels." in web.get("/runs").text
    web.patch("/api/settings", json={"retrain": {"every_labels": 7, "daily_at": "06:30"}})
    queue = web.get("/api/overview").json()["queue"]
    assert (queue["every"], queue["starts"]) == (7, ["after 7 new labels", "daily at 06:30"])
    assert "A run starts by itself after 7 new labels or daily at 06:30." in web.get("/runs").text
    web.patch("/api/settings", json={"retrain": {"every_labels": 0, "daily_at": None, "auto_release": False}})
    assert "Runs start when you ask for them." in web.get("/runs").text
    assert "released by itself" not in web.get("/releases").text


def test_cameras_say_whether_they_follow(web: TestClient, made: Seeded) -> None:
    def follows() -> dict[str, tuple[str, str]]:
        return {one["name"]: (one["follows"], one["triage_words"]) for one in web.get("/api/cameras").json()}

    assert follows()["line-1/top"] == ("own", "Follows its own edge.toml")
    assert follows()["line-3/oven-exit"] == ("unknown", "")
    web.patch("/api/settings", json={"triage": {"low_score": 0.7}})
    assert follows() == {
        "line-1/side": ("waiting", "Does not follow settings 1 yet"),
        "line-1/top": ("waiting", "Does not follow settings 1 yet"),
        "line-2/side": ("refused", "Cannot follow settings 1: the settings cannot be followed by this version"),
        "line-2/top": ("local", "Follows its own edge.toml: triage_local"),
        "line-3/oven-exit": ("unknown", "Its agent is too old to follow settings 1"),
        "line-3/rework": ("unknown", ""),
    }
    with made.store.write() as session:
        camera = session.exec(select(Camera).where(Camera.name == "line-1/top")).one()
        told = {"source": "project", "settings": to_wire(TriageSettings(low_score=0.7))}
        camera.reported = {**camera.reported, "triage": told}
        session.add(camera)
    assert follows()["line-1/top"] == ("project", "Follows settings 1")
    web.patch("/api/settings", json={"triage": {"low_score": None}})
    assert follows()["line-1/top"] == ("waiting", "Follows older settings")


# ----------------------------------------------------------------------------------------------- in a browser


def test_a_change_by_keyboard_is_in_force_and_can_be_taken_back(open_page: Open, policies: Policies) -> None:
    page = open_page("/settings").page
    field = page.get_by_label("low_score", exact=True)
    expect(field).to_have_value("0.8")
    field.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("0.65")
    page.keyboard.press("Enter")
    expect(page.locator(".toast")).to_have_text("1 setting in force")
    row = page.locator("#s-triage-low_score")
    expect(row.get_by_text("Set here")).to_be_visible()
    assert policies.now().triage == TriageSettings(low_score=0.65)
    expect(page.locator("#change-1-triage-low_score")).to_contain_text("Mira")
    expect(page.locator("#follows-line-1-top")).to_contain_text("Does not follow settings 1 yet")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="triage.low_score: Back to 0.8, as hub.toml says")).to_be_focused()
    page.keyboard.press("Enter")
    expect(field).to_have_value("0.8")
    expect(row.get_by_text("Default")).to_be_visible()
    expect(field).to_be_focused()
    assert policies.now().triage is None


def test_every_kind_of_setting_is_sent_as_what_it_is(open_page: Open, policies: Policies) -> None:
    page = open_page("/settings", width=360).page
    page.get_by_label("l2", exact=True).fill("0.5, 0.25")
    page.get_by_label("folds", exact=True).fill("4")
    page.get_by_label("class_balanced", exact=True).uncheck()
    page.get_by_label("max_iterations", exact=True).fill(" 30 ")
    page.get_by_role("button", name="Save train").click()
    expect(page.locator(".toast")).to_have_text("4 settings in force")
    page.get_by_label("daily_at", exact=True).fill("05:15")
    page.get_by_label("new_share", exact=True).fill("0.5")
    page.get_by_role("button", name="Save retrain").click()
    expect(page.locator(".toast").nth(1)).to_have_text("2 settings in force")
    now = policies.now()
    assert (now.train.l2, now.train.folds, now.train.class_balanced, now.train.max_iterations) == (
        (0.5, 0.25),
        4,
        False,
        30,
    )
    assert (now.retrain.daily_at, now.retrain.new_share) == ("05:15", 0.5)
    expect(page.get_by_role("button", name="Save train")).to_be_disabled()


def test_a_class_of_interest_is_chosen_among_the_projects_classes(
    open_page: Open, web: TestClient, policies: Policies
) -> None:
    page = open_page("/settings").page
    for key, name in (("triage.rare", "rare"), ("retrain.positive", "positive")):
        told = by_key(web.get("/api/settings").json())[key]
        assert (told["kind"], told["choices"]) == ("choice", ["", "good", "defect"])
        assert told["allowed"] == "one of good, defect, or nothing"
        row = page.locator(f"[data-key='{key}']")
        expect(row.locator("option")).to_have_text(["none named", "good", "defect"])
        row.get_by_label(name, exact=True).select_option("good")
        page.get_by_role("button", name=f"Save {key.partition('.')[0]}").click()
        expect(row.get_by_text("Set here")).to_be_visible()
    now = policies.now()
    assert (now.triage and now.triage.rare, now.retrain.positive) == ("good", "good")
    page.locator("[data-key='retrain.positive'] select").select_option("")
    page.get_by_role("button", name="Save retrain").click()
    expect(page.locator(".toast")).to_have_count(3)
    assert policies.now().retrain.positive == ""


def test_a_wrong_value_is_told_beside_its_field(open_page: Open, policies: Policies) -> None:
    page = open_page("/settings", strict=False).page
    page.get_by_label("folds", exact=True).fill("1")
    page.get_by_label("seed", exact=True).fill("x")
    page.keyboard.press("Enter")
    expect(page.locator("#e-train-folds")).to_have_text("is 1; allowed: whole number from 2 to 100")
    expect(page.locator("#e-train-seed")).to_have_text('is "x"; allowed: whole number from 0 to 4294967295')
    expect(page.get_by_label("folds", exact=True)).to_be_focused()
    expect(page.get_by_label("folds", exact=True)).to_have_attribute("aria-invalid", "true")
    assert policies.in_force().version == 0
    page.get_by_label("folds", exact=True).fill("2")
    expect(page.locator("#e-train-folds")).to_be_hidden()


def test_what_somebody_else_changes_appears_and_what_is_typed_stays(open_page: Open, policies: Policies) -> None:
    page = open_page("/settings").page
    page.get_by_label("seed", exact=True).fill("77")
    policies.set({"train.folds": 9, "train.seed": 3}, operator="Jo")
    expect(page.get_by_label("folds", exact=True)).to_have_value("9", timeout=8000)
    expect(page.get_by_label("seed", exact=True)).to_have_value("77")
    expect(page.locator("#change-1-train-folds")).to_contain_text("Jo")
