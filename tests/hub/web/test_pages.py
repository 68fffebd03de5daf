"""The pages in a real browser; the database is the judge."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect
from sqlmodel import col, select

from hub.tables import Image, Label, Run
from tests.hub.web.conftest import Watched
from tests.hub.web.seed import Seeded

Open = Callable[..., Watched]
PATHS = [
    "/",
    "/cameras",
    "/label",
    "/label/clusters",
    "/images",
    "/images/previews",
    "/images/9",
    "/runs",
    "/runs/4",
    "/runs/6",
    "/releases",
    "/releases/2/card",
    "/releases/4/card",
    "/settings",
]


def decisions(made: Seeded, since: int) -> list[tuple[int, str, str, str]]:
    with made.store.read() as session:
        rows = session.exec(select(Label).where(col(Label.id) > since).order_by(col(Label.id)))
        return [(one.image_id, one.kind, one.name, one.operator) for one in rows]


def newest(made: Seeded) -> int:
    with made.store.read() as session:
        return max(session.exec(select(Label.id)), default=0) or 0


def shown(page: Page) -> int:
    """The image that can be decided now."""
    expect(page.locator("#skip")).to_have_attribute("aria-disabled", "false")
    return int((page.locator("#frame-image img").get_attribute("alt") or "").removeprefix("Image "))


def settled(page: Page) -> None:
    """Wait until the hub has answered every decision."""
    until(page, "(localStorage.getItem('hone.outbox') ?? '[]') === '[]'")


def until(page: Page, condition: str) -> None:
    """Wait for an expression; Playwright's own way needs eval, which our pages forbid."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came: {condition}")


@pytest.mark.parametrize("width", [1280, 360])
def test_every_page_fits_and_asks_no_other_host(open_page: Open, width: int) -> None:
    one = open_page("/", width=width)
    for path in PATHS:
        one.page.goto(one.page.url.split("/", 3)[0] + "//" + one.page.url.split("/")[2] + path)
        expect(one.page.locator("h1").first).to_be_attached()
        one.page.wait_for_load_state("load")
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert one.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgba(0, 0, 0, 0)", path


def test_keys_label_skip_and_undo(open_page: Open, made: Seeded) -> None:
    since = newest(made)
    page = open_page("/label").page
    seen = []
    for key in ("2", "g", "s"):
        seen.append(shown(page))
        page.keyboard.press(key)
        expect(page.locator("#frame-image img")).not_to_have_attribute("alt", f"Image {seen[-1]}")
    settled(page)
    assert len(set(seen)) == 3
    assert decisions(made, since) == [
        (seen[0], "label", "defect", "Mira"),
        (seen[1], "label", "good", "Mira"),
        (seen[2], "skip", "", "Mira"),
    ]
    page.keyboard.press("u")
    expect(page.locator("#frame-image img")).to_have_attribute("alt", f"Image {seen[2]}")
    page.keyboard.press("u")
    expect(page.locator("#frame-image img")).to_have_attribute("alt", f"Image {seen[1]}")
    assert shown(page) == seen[1]
    page.keyboard.press("1")
    expect(page.locator("#frame-image img")).to_have_attribute("alt", f"Image {seen[2]}")
    settled(page)
    assert decisions(made, since)[3:] == [
        (seen[2], "undo", "", "Mira"),
        (seen[1], "undo", "", "Mira"),
        (seen[1], "label", "good", "Mira"),
    ]
    with made.store.read() as session:
        states = {one: session.get(Image, one) for one in seen}
    assert {key: (one.decided, one.label) for key, one in states.items() if one} == {
        seen[0]: (True, "defect"),
        seen[1]: (True, "good"),
        seen[2]: (False, None),
    }


def test_the_whole_queue_is_labelled_once_each_and_a_new_image_appears_by_itself(open_page: Open, made: Seeded) -> None:
    since, total = newest(made), made.desk.counts().waiting
    page = open_page("/label").page
    seen = []
    for _ in range(total):
        seen.append(shown(page))
        page.keyboard.press("1")
        until(page, f"document.querySelector('#frame-image img')?.alt !== 'Image {seen[-1]}'")
    expect(page.get_by_text("Nothing waits for a label")).to_be_visible()
    settled(page)
    assert made.desk.counts().waiting == 0
    assert sorted(one[0] for one in decisions(made, since)) == sorted(seen) == sorted(set(seen))
    with made.store.write() as session:
        image = session.get(Image, 9)
        assert image is not None
        image.decided, image.label, image.split, image.state = False, None, "pool", "verified"
        session.add(image)
    expect(page.locator("#frame-image img")).to_have_attribute("alt", "Image 9", timeout=8000)


def test_decisions_survive_a_dead_hub_and_a_closed_page(open_page: Open, made: Seeded) -> None:
    since = newest(made)
    page = open_page("/label", strict=False).page
    seen = [shown(page)]
    lost = [0]

    def swallow(route: Route) -> None:
        """The hub stores the label, but its answer gets lost: the page must send it again."""
        route.fetch()
        lost[0] += 1
        route.abort()

    page.route("**/api/labels", swallow)
    page.keyboard.press("2")
    expect(page.locator("#notice")).to_contain_text("1 decision is kept here")
    seen.append(shown(page))
    page.keyboard.press("1")
    expect(page.locator("#notice")).to_contain_text("2 decisions are kept here")
    assert lost[0] >= 1
    page.unroute("**/api/labels")
    page.reload()
    settled(page)
    expect(page.locator("#notice")).to_be_hidden()
    assert decisions(made, since) == [(seen[0], "label", "defect", "Mira"), (seen[1], "label", "good", "Mira")]


def test_undo_before_the_hub_has_heard_sends_nothing_of_it(open_page: Open, made: Seeded) -> None:
    since = newest(made)
    page = open_page("/label", strict=False).page
    page.route("**/api/labels", lambda route: route.abort())
    one = shown(page)
    page.keyboard.press("2")
    two = shown(page)
    page.keyboard.press("2")
    expect(page.locator("#notice")).to_contain_text("2 decisions are kept here")
    page.keyboard.press("u")
    expect(page.locator("#frame-image img")).to_have_attribute("alt", f"Image {two}")
    page.unroute("**/api/labels")
    settled(page)
    assert decisions(made, since) == [(one, "label", "defect", "Mira")]


def test_undo_while_the_decision_is_on_its_way_takes_back_that_one(open_page: Open, made: Seeded) -> None:
    since = newest(made)
    page = open_page("/label").page
    held: list[Route] = []
    page.route("**/api/labels", lambda route: held.append(route))  # noqa: PLW0108 (it sets an attribute)
    one = shown(page)
    page.keyboard.press("2")
    until(page, f"document.querySelector('#frame-image img')?.alt !== 'Image {one}'")
    page.keyboard.press("u")
    expect(page.locator("#frame-image img")).to_have_attribute("alt", f"Image {one}")
    assert decisions(made, since) == []
    held[0].continue_()
    settled(page)
    assert decisions(made, since) == [(one, "label", "defect", "Mira"), (one, "undo", "", "Mira")]


def test_the_first_visit_asks_for_a_name_and_a_touch_labels(open_page: Open, made: Seeded) -> None:
    since = newest(made)
    page = open_page("/label", width=390, height=844, operator=None).page
    expect(page.locator("#operator")).to_be_focused()
    expect(page.locator("#skip")).to_have_attribute("aria-disabled", "true")
    page.keyboard.type("Ute")
    page.keyboard.press("Enter")
    image = shown(page)
    assert (page.locator("#undo").bounding_box() or {"y": 9999})["y"] < 800  # without scrolling
    page.get_by_role("button", name="defect").click()
    settled(page)
    assert decisions(made, since) == [(image, "label", "defect", "Ute")]
    assert page.evaluate("localStorage.getItem('hone.operator')") == "Ute"


def test_an_image_of_the_random_sample_is_shown_without_what_the_model_said(open_page: Open, made: Seeded) -> None:
    with made.store.write() as session:
        for image in session.exec(select(Image).where(Image.split == "pool", col(Image.decided).is_(False))):
            image.why = "audit"
            session.add(image)
    page = open_page("/label").page
    expect(page.locator("#guess .big")).to_have_text("Asked blind")
    expect(page.locator("#guess .scores, #buttons .guessed")).to_have_count(0)
    expect(page.locator("#buttons .hint").first).to_have_text("")


def test_a_name_of_a_class_is_text_not_markup(open_page: Open, made: Seeded) -> None:
    with made.store.write() as session:
        image = session.get(Image, 9)
        assert image is not None
        image.camera, image.guess = "<img src=x onerror=alert(1)>", "<b>bold</b>"
        image.scores = {"<b>bold</b>": 0.5, "good": 0.5}
        session.add(image)
    page = open_page("/images/9").page
    expect(page.get_by_text("<b>bold</b>")).to_be_visible()
    expect(page.get_by_text("<img src=x")).to_be_visible()


def test_the_overview_follows_the_database_and_keeps_the_focus(open_page: Open, made: Seeded) -> None:
    page = open_page("/").page
    page.locator("#label-now").focus()
    page.evaluate("document.querySelector('#live').marked = true")
    with made.store.write() as session:
        run = session.get(Run, 6)
        assert run is not None
        run.progress, run.step = 0.81, "Fold 5 of 5"
        session.add(run)
    expect(page.locator(".step").get_by_text("Fold 5 of 5")).to_be_visible()
    expect(page.locator(".step progress")).to_have_attribute("value", "0.81")
    expect(page.locator("#label-now")).to_be_focused()
    assert page.evaluate("document.querySelector('#live').marked"), "the page was swapped, not changed in place"


def test_buttons_start_cancel_release_and_resume(open_page: Open, made: Seeded) -> None:
    page = open_page("/runs/6").page
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel run").click()
    expect(page.locator("h1")).to_contain_text("Cancelled")
    page.get_by_role("link", name="Runs", exact=True).first.click()
    page.get_by_role("button", name="Train now").click()
    expect(page.locator("#run-7")).to_contain_text("Queued")
    page.locator("#nav-releases").click()
    page.get_by_role("button", name="Resume rollout").click()
    page.get_by_role("button", name="Resume", exact=True).click()
    expect(page.locator("header").get_by_text("Under way")).to_be_visible()
    with made.store.read() as session:
        runs = {one.id: one.state for one in session.exec(select(Run))}
    assert (runs[6], runs[7]) == ("cancelled", "queued")
    other = open_page("/runs/3").page
    other.get_by_role("button", name="Release").click()
    other.get_by_role("textbox").fill("for the night shift")
    other.keyboard.press("Enter")
    expect(other.locator(".toast")).to_have_text("Release 5 is on its way")
    assert made.actions.released == [(3, "for the night shift", True)]


def test_a_cancelled_run_is_resumed_and_a_finished_one_repeated(open_page: Open, made: Seeded) -> None:
    page = open_page("/runs/6").page
    expect(page.get_by_role("button", name="Resume")).to_have_count(0)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_contain_text("It can be resumed from its last checkpoint for a week.")
    page.get_by_role("button", name="Cancel run").click()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("h1")).to_contain_text("Queued")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel run").click()
    expect(page.locator("h1")).to_contain_text("Cancelled")
    page = open_page("/runs/4").page
    page.get_by_role("button", name="Repeat").click()
    page.get_by_role("dialog").get_by_role("button", name="Repeat").click()
    expect(page.locator(".toast")).to_have_text("Run 7 is queued")
    with made.store.read() as session:
        assert session.get(Run, 7).why == "run 4 again"


def test_a_refusal_is_shown_in_words(open_page: Open, made: Seeded) -> None:
    made.actions.fails = True
    page = open_page("/runs/3", strict=False).page
    page.get_by_role("button", name="Release").click()
    page.locator("#ask [value=yes]").click()
    expect(page.locator(".toast.bad")).to_contain_text("broker: is not there")
    expect(page.get_by_role("button", name="Release")).to_be_enabled()


def test_the_curve_is_drawn_and_follows(open_page: Open, made: Seeded) -> None:
    page = open_page("/runs/6").page
    expect(page.locator("#curve canvas")).to_be_visible()
    expect(page.locator("#curve-last")).to_contain_text("22 steps")
    with made.store.write() as session:
        run = session.get(Run, 6)
        assert run is not None
        run.curve, run.progress = [*run.curve, 0.2], 0.7
        session.add(run)
    expect(page.locator("#curve-last")).to_contain_text("23 steps")


def test_filters_lead_to_short_addresses(open_page: Open, made: Seeded) -> None:
    page = open_page("/images").page
    page.get_by_role("link", name="Labelled").click()
    page.wait_for_url("**/images?state=labelled")
    page.locator("#f-label").select_option("defect")
    page.wait_for_url("**/images?state=labelled&label=defect")
    expect(page.locator(".tile").first).to_contain_text("defect")
    assert page.locator(".tile").count() < 24


def test_findings_are_shown_and_filtered_by(open_page: Open, made: Seeded) -> None:
    page = open_page("/images").page
    page.locator("#f-flag").select_option("blurred")
    page.wait_for_url("**/images?flag=blurred")
    expect(page.locator(".tile .flags").first).to_have_text("blurred")
    assert page.locator(".tile").count() == page.locator(".tile .flags").count() < 24
    page.locator(".tile").first.click()
    page.get_by_role("link", name="blurred").click()
    page.wait_for_url("**/images?flag=blurred")
    page.locator("#f-suspect").select_option("1")
    page.wait_for_url("**/images?flag=blurred&suspect=1")
    expect(page.get_by_text("No image matches")).to_be_visible()


def test_a_wrong_label_is_put_right_where_it_is_seen(open_page: Open, made: Seeded) -> None:
    since = newest(made)
    page = open_page("/runs/4").page
    page.locator("#broken img").first.click()
    expect(page.locator("h1")).to_have_text("Image 7")
    expect(page.locator("#operator")).to_have_value("Mira")
    page.keyboard.press("2")
    expect(page.locator("#as-2")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".history li").first).to_contain_text("defect by Mira")
    expect(page.locator(".panel .big").first).to_have_text("defect")
    page.locator("#as-1").click()
    expect(page.locator(".history li").first).to_contain_text("good by Mira")
    page.keyboard.press("s")
    expect(page.locator(".panel .big").first).to_have_text("Skipped")
    expect(page.locator("#skip")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("u")
    expect(page.locator(".panel .big").first).to_have_text("good")
    expect(page.locator("#operator")).to_have_value("Mira")
    assert decisions(made, since) == [
        (7, "label", "defect", "Mira"),
        (7, "label", "good", "Mira"),
        (7, "skip", "", "Mira"),
        (7, "undo", "", "Mira"),
    ]


def test_nobody_labels_an_image_without_a_name(open_page: Open, made: Seeded) -> None:
    since = newest(made)
    page = open_page("/images/9", operator=None).page
    page.keyboard.press("1")
    expect(page.locator("#operator")).to_be_focused()
    expect(page.locator("#toasts")).to_contain_text("Say who you are first")
    page.keyboard.type("Jo1")
    page.locator("#as-1").click()
    expect(page.locator(".history li").first).to_contain_text("by Jo1")
    assert [one[3] for one in decisions(made, since)] == ["Jo1"]


def test_a_group_is_decided_and_taken_back_by_keys(open_page: Open, made: Seeded) -> None:
    since, total = newest(made), made.desk.counts().waiting
    page = open_page("/label/clusters").page
    expect(page.locator(".pick").first).to_be_visible()
    here = [int(one or 0) for one in page.locator(".pick").evaluate_all("all => all.map((one) => one.dataset.id)")]
    page.keyboard.press("a")
    expect(page.locator("#picked")).to_have_text(str(len(here)))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")  # all but the one that has the focus
    expect(page.locator(".pick").first).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("2")
    expect(page.locator("#last")).to_contain_text(f"{len(here) - 1} defect")
    assert sorted(decisions(made, since)) == sorted((one, "label", "defect", "Mira") for one in here[1:])
    page.keyboard.press("u")
    expect(page.locator("#last")).to_have_text(f"{len(here) - 1} taken back")
    assert made.desk.counts().waiting == total
    page.keyboard.press("n")
    expect(page.locator(".grouptab").nth(1)).to_have_attribute("aria-selected", "true")
    page.locator(".pick").first.click()
    page.get_by_role("button", name="Cannot tell").click()
    expect(page.locator("#last")).to_contain_text("1 skipped")
    assert made.desk.counts().waiting == total - 1


def test_a_decision_on_many_whose_answer_is_lost_counts_once(open_page: Open, made: Seeded) -> None:
    since = newest(made)
    page = open_page("/label/clusters", strict=False).page

    def swallow(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/api/bulk", swallow, times=1)
    page.locator(".pick").first.click()
    page.keyboard.press("1")
    expect(page.locator("#notice")).to_contain_text("sent again by itself")
    expect(page.locator("#last")).to_contain_text("1 good")
    assert len(decisions(made, since)) == 1
