"""Previews on the page and in the API. The seed has nine: 1 and 6 asked for, 8 gone, 3 without a picture."""

from collections.abc import Callable

import msgspec
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect
from sqlmodel import Session, col, select

from hub.policies import Policies
from hub.tables import Image, Preview
from hub.web.views import Views
from shared.messages import Event, encode
from shared.messages import decode as decode_message
from shared.preprocess import decode
from tests.hub.web.conftest import Watched
from tests.hub.web.seed import Seeded

Open = Callable[..., Watched]
ASKED, GONE, BARE = (1, 6), 8, 3


def ids(web: TestClient, query: str = "") -> list[int]:
    return [one["id"] for one in web.get(f"/api/previews{query}").json()["items"]]


def asked(made: Seeded) -> set[int | None]:
    with made.store.read() as session:
        return set(session.exec(select(Preview.id).where(col(Preview.asked_at).is_not(None))))


def views_of(made: Seeded) -> Views:
    policies = Policies(made.settings, made.store, made.clock)
    return Views(made.settings, made.store, made.desk, made.actions, made.clock, policies=policies)


def arrive(made: Seeded, preview_id: int) -> None:
    """The image of a preview is stored, as `hub.commit` does it."""
    with made.store.write() as session:
        row = session.get(Preview, preview_id)
        assert row is not None
        image = session.exec(select(Image).where(Image.state == "verified", Image.split == "pool")).first()
        assert image is not None
        session.delete(row)
        fields = {**image.model_dump(exclude={"id"}), "camera": row.camera, "event_id": row.event_id}
        session.add(Image(**{**fields, "label": None, "decided": False}))


# ------------------------------------------------------------------------------------------------------------ API


def test_a_preview_says_what_the_model_said_and_how_it_stands(web: TestClient, made: Seeded) -> None:
    found = web.get("/api/previews").json()
    assert (found["total"], found["limit"], found["offset"]) == (9, 50, 0)
    assert [one["id"] for one in found["items"]] == list(range(9, 0, -1)), "the newest first"
    assert {one["id"]: one["state"] for one in found["items"] if one["state"] != "waiting"} == {
        1: "asked", 6: "asked", 8: "gone",
    }  # fmt: skip
    one = found["items"][4]
    assert (one["id"], one["camera"], one["why"], one["value"], one["probability"]) == (
        5, "line-2/top", "audit", 1.0, 0.01,
    )  # fmt: skip
    assert (one["guess"], one["score"], one["scores"], one["blind"]) == ("", None, {}, True)
    other = found["items"][5]
    assert other["guess"] == max(other["scores"], key=other["scores"].get)
    assert (other["score"], other["blind"]) == (max(other["scores"].values()), False)
    assert (one["size"], one["release"], one["asked_at"]) == (61_300 + 4 * 997, 3, None)
    assert one["thumb"] == "/api/previews/5/thumbnail"
    assert [one["thumb"] for one in found["items"] if one["id"] == BARE] == [""]
    assert all((one["asked_at"] is not None) == (one["state"] == "asked") for one in found["items"])


def test_a_frame_on_which_two_releases_differ_is_blind_too(web: TestClient, made: Seeded) -> None:
    with made.store.write() as session:
        row = session.get(Preview, 4)
        assert row is not None
        row.event = encode(msgspec.structs.replace(decode_message(row.event, Event), why="pair"))
        session.add(row)
    [one] = [one for one in web.get("/api/previews").json()["items"] if one["id"] == 4]
    assert (one["why"], one["guess"], one["score"], one["scores"], one["blind"]) == ("pair", "", None, {}, True)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?state=asked", [6, 1]),
        ("?state=gone", [8]),
        ("?state=waiting", [9, 7, 5, 4, 3, 2]),
        ("?camera=line-3/oven-exit", [7, 4, 1]),
        ("?camera=line-3/oven-exit&state=waiting", [7, 4]),
        ("?camera=nobody/here", []),
        ("?limit=2&offset=3", [6, 5]),
        ("?limit=1&order=value", [5]),
    ],
)
def test_previews_are_filtered_and_paged(web: TestClient, query: str, expected: list[int]) -> None:
    assert ids(web, query) == expected


def test_the_most_valuable_first(web: TestClient) -> None:
    values = [one["value"] for one in web.get("/api/previews?order=value").json()["items"]]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 9


@pytest.mark.parametrize("query", ["?state=stored", "?order=size", "?limit=0", "?limit=9999", "?offset=-1"])
def test_what_makes_no_sense_is_told(web: TestClient, query: str) -> None:
    assert web.get(f"/api/previews{query}").status_code == 422


def test_previews_of_another_project_are_not_seen(web: TestClient, made: Seeded) -> None:
    with made.store.write() as session:
        row = session.get(Preview, 9)
        assert row is not None
        row.project = "other"
    assert 9 not in ids(web)
    assert web.get("/api/previews/9/thumbnail").status_code == 404
    assert web.post("/api/previews/9/ask", json={}).status_code == 404
    assert web.get("/api/overview").json()["previews"] == {"waiting": 5, "asked": 2, "gone": 1}


def test_a_thumbnail_is_a_small_jpeg_for_ever(web: TestClient) -> None:
    answer = web.get("/api/previews/5/thumbnail")
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert decode(answer.content).shape == (128, 128, 3)
    assert len(answer.content) <= 3000
    for missing in (BARE, 99):
        assert web.get(f"/api/previews/{missing}/thumbnail").status_code == 404


def test_asking_is_written_down_once(web: TestClient, made: Seeded) -> None:
    assert asked(made) == set(ASKED)
    assert web.post("/api/previews/5/ask", json={}).json() == {"ok": True}
    with made.store.read() as session:
        since = session.get_one(Preview, 5).asked_at
    assert web.post("/api/previews/5/ask", json={}).status_code == 200
    with made.store.read() as session:
        assert session.get_one(Preview, 5).asked_at == since
    assert asked(made) == {*ASKED, 5}


def test_what_is_gone_or_was_never_there_cannot_be_asked_for(web: TestClient, made: Seeded) -> None:
    gone = web.post(f"/api/previews/{GONE}/ask", json={})
    assert gone.status_code == 409
    assert "let this image go" in gone.json()["message"]
    assert web.post("/api/previews/99/ask", json={}).status_code == 404
    assert web.post("/api/previews/0/ask", json={}).status_code == 422
    assert web.post("/api/previews/5/ask", content=b"", headers={"content-type": "text/plain"}).status_code == 415
    assert asked(made) == set(ASKED)


def test_cameras_and_the_overview_count_their_previews(web: TestClient) -> None:
    by_name = {one["name"]: one["previews"] for one in web.get("/api/cameras").json()}
    assert by_name["line-2/top"] == {"waiting": 4, "asked": 1, "gone": 1}
    assert by_name["line-3/oven-exit"] == {"waiting": 2, "asked": 1, "gone": 0}
    assert by_name["line-1/top"] == {"waiting": 0, "asked": 0, "gone": 0}
    assert web.get("/api/overview").json()["previews"] == {"waiting": 6, "asked": 2, "gone": 1}


def test_a_page_is_told_of_every_change_and_of_no_other(made: Seeded) -> None:
    views = views_of(made)

    def change(what: Callable[[Session], None]) -> set[str]:
        before = views.fingerprints()
        with made.store.write() as session:
            what(session)
        after = views.fingerprints()
        return {topic for topic, value in after.items() if before[topic] != value}

    def mark(**fields: object) -> Callable[[Session], None]:
        def do(session: Session) -> None:
            row = session.get_one(Preview, 5)
            for name, value in fields.items():
                setattr(row, name, value)

        return do

    assert change(mark(asked_at=made.clock.utc())) == {"previews"}
    assert change(mark(gone=True)) == {"previews"}
    assert change(lambda session: session.delete(session.get_one(Preview, 5))) == {"previews"}
    assert change(lambda _session: None) == set()


def test_lists_and_the_live_page_read_no_thumbnails(made: Seeded) -> None:
    from sqlalchemy import event as happening

    texts: list[tuple[str, object]] = []
    happening.listen(
        made.store.engine, "before_cursor_execute", lambda _c, _u, text, args, *_m: texts.append((text, args))
    )
    views_of(made).fingerprints()
    counted = [one for one in texts if "FROM preview" in one[0] and "count" in one[0]]
    assert len(counted) == 1
    with made.store.engine.connect() as connection:
        plan = [str(row[3]) for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + counted[0][0], counted[0][1])]
    assert "COVERING INDEX ix_preview_state" in plan[0], plan


# ------------------------------------------------------------------------------------------------- in a browser


def test_a_click_asks_for_the_image_and_it_comes_to_the_label_queue(open_page: Open, made: Seeded) -> None:
    one = open_page("/images")
    page = one.page
    page.locator("#tab-previews").click()
    expect(page.locator("h1")).to_have_text("Previews")
    expect(page.locator("#nav-images")).to_have_attribute("aria-current", "page")
    expect(page.locator(".grid > li")).to_have_count(9)
    expect(page.locator("#preview-4 .what")).to_have_text(web_guess(made, 4))
    expect(page.locator("#preview-5 .what")).to_have_text("asked blind")
    for number in (2, 5, 9):
        assert (
            page.locator(f"#preview-{number} img").evaluate("one => one.decode().then(() => one.naturalWidth)") == 128
        )
    expect(page.locator(f"#preview-{BARE} .noimage")).to_be_visible()
    page.locator("#preview-5 button").click()
    expect(page.locator("#toasts")).to_contain_text("line-2/top is asked for the image")
    expect(page.locator("#preview-5 .pill")).to_have_text("Asked for")
    expect(page.locator("#preview-5 button")).to_have_count(0)
    assert asked(made) == {*ASKED, 5}
    waiting = made.desk.counts().waiting
    arrive(made, 5)
    expect(page.locator("#preview-5")).to_have_count(0, timeout=8000)
    expect(page.locator(".total")).to_have_text("8 previews")
    expect(page.locator("#nav-label .badge")).to_have_text(str(waiting + 1))


def web_guess(made: Seeded, number: int) -> str:
    from hub.web.previews import Previews

    found = Previews("cells", made.store).one(number)
    assert found is not None
    return found.guess


def test_states_are_shown_and_only_what_waits_can_be_clicked(open_page: Open) -> None:
    page = open_page("/images/previews").page
    assert [one.get_attribute("data-post") for one in page.locator("#live button").all()] == [
        f"/api/previews/{number}/ask" for number in (9, 7, 5, 4, 3, 2)
    ]
    expect(page.locator(f"#preview-{GONE} .pill")).to_have_text("Gone")
    expect(page.locator("#preview-6 .pill")).to_have_text("Asked for")
    expect(page.locator("#preview-1 .pill")).to_have_text("Offline")  # its camera is away


def test_filters_by_camera_state_and_order(open_page: Open) -> None:
    page = open_page("/").page
    page.locator("#camera-line-3-oven-exit").get_by_text("3 previews").click()
    expect(page.locator(".total")).to_have_text("3 previews")
    page.locator("#tab-waiting").click()
    expect(page.locator(".grid > li")).to_have_count(2)
    page.locator("#f-camera").select_option("")
    expect(page.locator(".grid > li")).to_have_count(6)
    page.locator("#f-order").select_option("value")
    expect(page.locator(".grid > li").first).to_have_id("preview-5")
    assert "order=value" in page.url
    page.locator("#tab-gone").click()
    expect(page.locator(".grid > li")).to_have_count(1)
    page.goto(page.url.split("?")[0] + "?camera=nobody")
    expect(page.get_by_text("No preview matches")).to_be_visible()


def test_an_image_that_goes_meanwhile_is_told(open_page: Open, made: Seeded) -> None:
    page = open_page("/images/previews", strict=False).page
    page.route("**/stream*", lambda route: route.abort())
    page.reload()
    with made.store.write() as session:
        session.get_one(Preview, 5).gone = True
    page.locator("#preview-5 button").click()
    expect(page.locator("#toasts")).to_contain_text("let this image go")
    expect(page.locator("#preview-5 .pill")).to_have_text("Gone")
    assert asked(made) == set(ASKED)


def test_a_hub_without_previews_does_not_speak_of_them(open_page: Open, made: Seeded) -> None:
    with made.store.write() as session:
        for one in session.exec(select(Preview)):
            session.delete(one)
    page = open_page("/images").page
    expect(page.locator("#tab-all")).to_be_visible()
    expect(page.locator("#tab-previews")).to_have_count(0)
    page.goto(page.url + "/previews")
    expect(page.get_by_text("No preview is here")).to_be_visible()
