"""From an image to the cameras that run what learned from it, and back from a release to its images."""

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect
from sqlmodel import select

from hub.tables import Image, Label, Release, Run
from tests.hub.web.seed import Seeded
from tests.hub.web.test_pages import Open


def labelled(made: Seeded) -> list[Image]:
    with made.store.read() as session:
        return list(session.exec(select(Image).where(Image.label != None).order_by(Image.sha256)))  # noqa: E711


def numbers(made: Seeded) -> dict[int, int]:
    """Release -> run, of those that have one."""
    with made.store.read() as session:
        return {one.number: one.run_id for one in session.exec(select(Release)) if one.run_id}


def test_the_images_of_a_release_come_page_by_page(web: TestClient, made: Seeded) -> None:
    wanted = labelled(made)
    number, run = max(numbers(made).items())
    first = web.get(f"/api/releases/{number}/images", params={"limit": 3}).json()
    rest = web.get(f"/api/releases/{number}/images", params={"limit": 200, "offset": 3}).json()
    assert (first["total"], first["run"], first["kept"]) == (len(wanted), run, True)
    items = first["items"] + rest["items"]
    assert [one["image"] for one in items] == [one.id for one in wanted]
    assert [one["label"] for one in items] == [one.label for one in wanted]
    held = web.get(f"/api/releases/{number}/images", params={"side": "holdout"}).json()
    assert held["total"] == sum(one.split == "holdout" for one in wanted)
    assert {one["side"] for one in held["items"]} == {"holdout"}


def test_who_gave_a_label_is_told_where_it_was_before_the_run_ended(web: TestClient, made: Seeded) -> None:
    number, run = max(numbers(made).items())
    [image, *_] = [one for one in labelled(made) if one.split == "pool"]

    def told() -> list[str]:
        items = web.get(f"/api/releases/{number}/images", params={"limit": 200}).json()["items"]
        return [one["operator"] for one in items if one["image"] == image.id]

    assert told() == [""]  # Mira came after the run
    with made.store.write() as session:
        ended = session.get(Run, run).ended_at  # type: ignore[union-attr]
        session.add(Label(image_id=image.id, name=image.label, operator="Noor", at=ended))
    assert told() == ["Noor"]


def test_images_with_the_same_bytes_are_each_told_once(web: TestClient, made: Seeded) -> None:
    number, run = max(numbers(made).items())
    [image, *_] = labelled(made)
    with made.store.write() as session:
        twin = image.model_dump() | {"id": None, "event_id": "twin", "camera": "line-9/top"}
        session.add(Image(**twin))
        line = f"{image.sha256} {image.label} train\n"
        [name] = made.store.blobs.put([(3 * line).encode()])
        session.get(Run, run).snapshot = name  # type: ignore[union-attr]
    found = [
        web.get(f"/api/releases/{number}/images", params={"limit": 1, "offset": at}).json()["items"][0]
        for at in range(3)
    ]
    assert found[0]["image"] == image.id
    assert found[1]["camera"] == "line-9/top"
    assert (found[2]["image"], found[2]["camera"], found[2]["sha256"]) == (None, None, image.sha256)


def test_an_image_leads_to_runs_releases_and_cameras(web: TestClient, made: Seeded) -> None:
    with made.store.write() as session:
        for image in session.exec(select(Image)):  # came before the runs
            image.received_at = made.clock.utc().replace(year=2020)
    [image, *_] = [one for one in labelled(made) if one.split == "holdout"]
    found = web.get(f"/api/images/{image.id}/lineage").json()
    assert (found["image"], found["label"], found["camera"]) == (image.id, image.label, "")
    assert [one["run"] for one in found["runs"]] == [4, 3, 2]  # the first did not keep its snapshot
    assert {(one["side"], one["label"]) for one in found["runs"]} == {("holdout", image.label)}
    releases = {release["number"]: release["cameras"] for one in found["runs"] for release in one["releases"]}
    assert releases[3] == ["line-2/side", "line-2/top"]


def test_an_image_that_came_after_the_runs_led_nowhere(web: TestClient, made: Seeded) -> None:
    [image, *_] = labelled(made)
    assert web.get(f"/api/images/{image.id}/lineage").json()["runs"] == []


def test_a_snapshot_that_is_gone_is_said_so(web: TestClient, made: Seeded) -> None:
    number = min(numbers(made))
    found = web.get(f"/api/releases/{number}/images").json()
    assert (found["kept"], found["total"], found["items"]) == (False, 0, [])


@pytest.mark.parametrize(
    "path",
    [
        "/api/releases/99/images",
        "/api/images/9999/lineage",
        "/api/releases/99/card",
        "/api/releases/99/card.md",
        "/releases/99/card",
    ],
)
def test_what_is_not_there_is_404(web: TestClient, path: str) -> None:
    assert web.get(path).status_code == 404


def test_the_card_is_page_json_and_markdown(web: TestClient, made: Seeded) -> None:
    number, run = max(numbers(made).items())
    card = web.get(f"/api/releases/{number}/card").json()
    assert (card["release"], card["run"], card["data"]["kept"]) == (number, run, True)
    assert card["data"]["training"]["images"] == sum(one.split != "holdout" for one in labelled(made))
    text = web.get(f"/api/releases/{number}/card.md")
    assert text.headers["content-type"].startswith("text/markdown")
    assert text.text.startswith(f"# Model card: cells, release {number}\n")
    page = web.get(f"/releases/{number}/card").text
    assert "Nobody has stated what this model is for" in page
    assert card["limitations"][0] in page
    assert "/api/releases/{number}/card" in web.get("/openapi.json").json()["paths"]


def test_the_card_and_the_lineage_are_a_click_away(open_page: Open, made: Seeded) -> None:
    with made.store.write() as session:
        for image in session.exec(select(Image)):
            image.received_at = made.clock.utc().replace(year=2020)
    [image, *_] = labelled(made)
    page = open_page(f"/images/{image.id}").page
    page.locator("#lineage").get_by_role("link", name="Release 3").click()
    expect(page.get_by_role("heading", name="Model card of release 3")).to_be_visible()
    expect(page.locator("#limitations li").first).to_be_visible()
    page.get_by_role("link", name="Releases").last.click()
    page.get_by_role("link", name="Release 2", exact=True).click()
    expect(page.get_by_role("heading", name="Model card of release 2")).to_be_visible()
