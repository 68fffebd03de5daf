import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlmodel import col, select

from hub.label import Desk
from hub.queue import waits
from hub.settings import LabelSettings
from hub.tables import Image, Label, Rollout, Run, Skew, Suspect
from hub.web import guard, stream
from hub.web.app import create_app
from hub.web.images import Images
from hub.web.serve import WebServer
from shared.errors import PortInUseError
from tests.hub.web.seed import Seeded


def labels(made: Seeded, image: int) -> list[tuple[str, str]]:
    with made.store.read() as session:
        rows = session.exec(select(Label).where(Label.image_id == image).order_by(col(Label.id)))
        return [(one.kind, one.name) for one in rows]


def first(web: TestClient) -> int:
    return web.get("/api/queue").json()["items"][0]["id"]


def end_runs(made: Seeded) -> None:
    with made.store.write() as session:
        for one in session.exec(select(Run).where(col(Run.state).in_(["queued", "running"]))):
            one.state = "done"
            session.add(one)


def test_overview_tells_the_whole_story(web: TestClient, made: Seeded) -> None:
    found = web.get("/api/overview").json()
    assert found["project"] == "cells"
    assert found["hub"]["broker"] is True
    assert found["totals"]["stored"] == 24 == sum(found["totals"]["by_split"].values())
    assert found["totals"]["unreadable"] == 1
    assert found["current"]["progress"] == 0.62
    assert [found["current"][name] for name in ("loss", "metric", "eta_s")] == [0.311, 0.92, 75.2]
    assert [found["runs"][1][name] for name in ("loss", "metric", "eta_s")] == [None] * 3
    assert found["rollout"]["state"] == "held"
    assert "golden check" in found["rollout"]["words"]
    assert found["latest"] == found["releases"][0]["number"]
    assert found["queue"]["waiting"] == made.desk.counts().waiting


def test_cameras_say_how_they_stand(web: TestClient) -> None:
    by_name = {one["name"]: one for one in web.get("/api/cameras").json()}
    assert {name: one["status"] for name, one in by_name.items()} == {
        "line-1/side": "current",
        "line-1/top": "current",
        "line-2/side": "failed",
        "line-2/top": "updating",
        "line-3/oven-exit": "offline",
        "line-3/rework": "silent",
    }
    assert by_name["line-2/top"]["low_score"] == 0.38
    assert by_name["line-3/oven-exit"]["spool_dropped"] == 129
    assert web.get("/api/cameras/line-2/top").json() == by_name["line-2/top"]


def test_only_canaries_should_run_a_release_in_its_first_stage(web: TestClient, made: Seeded) -> None:
    with made.store.write() as session:
        rollout = session.exec(select(Rollout)).one()
        rollout.stage, rollout.cameras = "canary", ["line-2/top"]
        session.add(rollout)
    targets = {one["name"]: one["target"] for one in web.get("/api/cameras").json()}
    assert targets["line-2/top"] == 4
    assert targets["line-2/side"] == 3


def test_a_report_that_cannot_be_read_does_not_break_the_page(web: TestClient, made: Seeded) -> None:
    from hub.tables import Camera

    with made.store.write() as session:
        camera = session.get(Camera, "line-1/top")
        assert camera is not None
        camera.reported = {"v": 1, "time": "never"}
        session.add(camera)
    assert web.get("/api/cameras/line-1/top").json()["status"] == "silent"
    assert web.get("/").status_code == 200


def test_images_are_filtered_and_paged(web: TestClient, made: Seeded) -> None:
    everything = web.get("/api/images?limit=200").json()
    assert everything["total"] == 24
    assert [one["id"] for one in everything["items"]] == list(range(24, 0, -1))
    page = web.get("/api/images?limit=5&offset=5").json()
    assert [one["id"] for one in page["items"]] == [19, 18, 17, 16, 15]
    assert web.get("/api/images?state=waiting").json()["total"] == made.desk.counts().waiting
    assert web.get("/api/images?state=labelled&split=pool").json()["total"] == made.desk.counts().labelled
    defects = web.get("/api/images?label=defect&limit=200").json()
    assert 0 < defects["total"] == sum(one["label"] == "defect" for one in everything["items"])


def test_images_with_a_finding_and_labels_in_doubt_are_found(web: TestClient, made: Seeded) -> None:
    everything = web.get("/api/images?limit=200").json()["items"]
    blurred = {one["id"] for one in everything if "blurred" in one["flags"]}
    found = web.get("/api/images?flag=blurred&limit=200").json()
    assert {one["id"] for one in found["items"]} == blurred != set()
    assert found["total"] == len(blurred)
    with made.store.write() as session:
        row = session.get(Image, min(blurred))
        assert row is not None
        row.flags = {**row.flags, "copy": 0.0}
        session.add(row)
    assert [one["id"] for one in web.get("/api/images?flag=copy").json()["items"]] == [min(blurred)]
    assert web.get("/api/images?flag=nonsense").status_code == 422
    assert f'href="/images/{min(blurred)}"' in web.get("/images?flag=copy").text
    assert web.get('/images?flag=a"b').status_code == 200, "as any other choice that is none"

    assert web.get("/api/images?suspect=true").json()["total"] == 0
    label = next(one for one in everything if one["label"])
    with made.store.write() as session:
        run = session.exec(select(Run.id).where(Run.state == "done").order_by(col(Run.id).desc())).first()
        session.add(Suspect(run_id=run, image_id=label["id"], label=label["label"], guess="good", confidence=0.1))
    assert [one["id"] for one in web.get("/api/images?suspect=true").json()["items"]] == [label["id"]]
    assert web.get("/api/images?suspect=true&flag=view").json()["total"] == 0
    assert f'href="/images/{label["id"]}"' in web.get("/images?suspect=1").text
    assert 'href="/images?suspect=1"' in web.get("/").text
    other = "good" if label["label"] == "defect" else "defect"
    web.post("/api/labels", json={"image": label["id"], "name": other, "operator": "Mira"})
    assert web.get("/api/images?suspect=true").json()["total"] == 0, "the run doubted another label"


def test_the_file_is_the_very_bytes_and_cached_for_ever(web: TestClient, made: Seeded) -> None:
    answer = web.get("/api/images/1/file")
    with made.store.read() as session:
        image = session.get(Image, 1)
        assert image is not None
        assert answer.content == made.store.blobs.read(image.sha256)
    assert answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    small = web.get("/api/images/1/file?width=64")
    assert small.headers["content-type"] == "image/jpeg"
    assert len(small.content) < len(answer.content)


def test_a_file_that_is_no_image_is_refused_as_thumbnail_but_kept(web: TestClient) -> None:
    assert web.get("/api/images/4/file").content == b"not an image"
    refused = web.get("/api/images/4/file?width=64")
    assert (refused.status_code, refused.json()["error"]) == (422, "image")


def test_a_lost_blob_is_a_store_error(web: TestClient, made: Seeded) -> None:
    made.store.blobs.path(web.get("/api/images/1").json()["sha256"]).unlink()
    answer = web.get("/api/images/1/file")
    assert (answer.status_code, answer.json()["error"]) == (503, "store")


def test_the_queue_leaves_out_what_is_shown_elsewhere(web: TestClient) -> None:
    three = [one["id"] for one in web.get("/api/queue?count=3").json()["items"]]
    assert len(three) == 3
    rest = web.get("/api/queue", params={"count": 50, "exclude": three}).json()["items"]
    assert not set(three) & {one["id"] for one in rest}
    assert {"url", "camera", "captured_at", "release", "guess", "score", "scores", "why", "flags", "width"} <= rest[
        0
    ].keys()


def test_an_image_of_the_random_sample_is_asked_blind_until_it_is_labelled(web: TestClient) -> None:
    waiting = web.get("/api/queue?count=50").json()["items"]
    blind = [one for one in waiting if one["why"] == "audit"]
    assert blind
    assert all((one["guess"], one["score"], one["scores"], one["blind"]) == ("", None, {}, True) for one in blind)
    assert all(one["guess"] and one["scores"] and not one["blind"] for one in waiting if one["why"] != "audit")
    image = blind[0]["id"]
    listed = web.get("/api/images?state=waiting&limit=200").json()["items"]
    assert {one["score"] for one in listed if one["why"] == "audit"} == {None}
    page = web.get(f"/images/{image}").text
    assert "it is of the random sample" in page
    assert 'class="scores"' not in page
    label = web.post("/api/labels", json={"image": image, "name": "defect", "operator": "Mira"}).json()
    told = web.get(f"/api/images/{image}").json()
    assert (told["blind"], told["guess"] != "", told["score"] == max(told["scores"].values())) == (False, True, True)
    assert "it is of the random sample" not in web.get(f"/images/{image}").text
    web.post("/api/undo", json={"operator": "Mira", "label": label["id"]})
    assert web.get(f"/api/images/{image}").json()["scores"] == {}, "whoever decides anew is asked blind, too"


def test_a_label_counts_once_however_often_it_is_sent(web: TestClient, made: Seeded) -> None:
    image = first(web)
    before = made.desk.counts()
    ask = {"image": image, "name": "defect", "operator": " Mira ", "seconds": 1.25}
    once = web.post("/api/labels", json=ask)
    again = web.post("/api/labels", json=ask)
    assert once.status_code == again.status_code == 200
    assert once.json()["id"] == again.json()["id"]
    assert once.json()["operator"] == "Mira"
    assert labels(made, image) == [("label", "defect")]
    assert made.desk.counts().waiting == before.waiting - 1
    web.post("/api/labels", json={**ask, "name": "good"})
    web.post("/api/labels", json={**ask, "operator": "Tom"})
    assert labels(made, image) == [("label", "defect"), ("label", "good"), ("label", "defect")]


def test_a_skip_counts_once_too(web: TestClient, made: Seeded) -> None:
    image = first(web)
    for _ in range(2):
        assert web.post("/api/skips", json={"image": image, "operator": "Mira"}).status_code == 200
    assert labels(made, image) == [("skip", "")]


def test_undo_takes_back_the_decision_named_and_no_other(web: TestClient, made: Seeded) -> None:
    image = first(web)
    made_label = web.post("/api/labels", json={"image": image, "name": "good", "operator": "Mira"}).json()
    ask = {"operator": "Mira", "label": made_label["id"]}
    once, again = web.post("/api/undo", json=ask), web.post("/api/undo", json=ask)
    assert once.json() == again.json()
    assert labels(made, image) == [("label", "good"), ("undo", "")]
    history = web.get(f"/api/images/{image}").json()["history"]
    assert [(one["kind"], one["undone"]) for one in history] == [("undo", False), ("label", True)]
    other = web.post("/api/undo", json={"operator": "Mira", "label": 10_000})
    assert (other.status_code, other.json()["error"]) == (409, "conflict")
    nobody = web.post("/api/undo", json={"operator": "nobody"})
    assert (nobody.status_code, nobody.json()["error"]) == (422, "label")
    web.post("/api/labels", json={"image": image, "name": "good", "operator": "Mira"})
    assert labels(made, image)[-1] == ("label", "good")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/labels", {"image": 999, "name": "good", "operator": "Mira"}, 404, "not_found"),
        ("/api/labels", {"image": 1, "name": "purple", "operator": "Mira"}, 422, "label"),
        ("/api/labels", {"image": 1, "name": "good", "operator": "  "}, 422, "invalid"),
        ("/api/labels", {"image": 1, "name": "good", "operator": "x" * 101}, 422, "invalid"),
        ("/api/labels", {"image": 1, "name": "good", "operator": "Mira", "seconds": -1}, 422, "invalid"),
        ("/api/labels", {"image": 2**70, "name": "good", "operator": "Mira"}, 422, "invalid"),
        ("/api/labels", {"image": 1, "name": "good", "operator": "Mira", "extra": 1}, 422, "invalid"),
        ("/api/labels", [], 422, "invalid"),
        ("/api/skips", {"image": 999, "operator": "Mira"}, 404, "not_found"),
        ("/api/runs", {}, 409, "train"),
        ("/api/runs/999/cancel", {}, 404, "not_found"),
        ("/api/runs/4/cancel", {}, 409, "conflict"),
        ("/api/runs/999/resume", {}, 404, "not_found"),
        ("/api/runs/4/resume", {}, 409, "conflict"),
        ("/api/runs/6/resume", {}, 409, "conflict"),
        ("/api/runs/999/again", {}, 404, "not_found"),
        ("/api/runs/5/again", {}, 409, "conflict"),
        ("/api/runs/4/again", {}, 409, "train"),
        ("/api/releases", {"run": 999}, 404, "not_found"),
        ("/api/releases", {"run": 5}, 409, "conflict"),
        ("/api/releases", {"run": 4, "note": "x" * 501}, 422, "invalid"),
    ],
)
def test_bad_requests_say_what_is_wrong(web: TestClient, path: str, body: object, status: int, code: str) -> None:
    answer = web.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/nothing", 404),
        ("/api/images/999", 404),
        ("/api/images/999/file", 404),
        ("/api/images/0", 422),
        ("/api/images/99999999999999999999", 422),
        ("/api/images?limit=201", 422),
        ("/api/images?offset=-1", 422),
        ("/api/images?state=odd", 422),
        ("/api/queue?count=51", 422),
        ("/api/queue?count=1&exclude=x", 422),
        ("/api/runs/999", 404),
        ("/api/cameras/line-1/none", 404),
        ("/api/labels?limit=0", 422),
    ],
)
def test_bad_reads_have_the_same_shape(web: TestClient, path: str, status: int) -> None:
    answer = web.get(path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "message"}


def test_runs_start_cancel_and_release(web: TestClient, made: Seeded) -> None:
    assert web.post("/api/runs/6/cancel", json={}).status_code == 200
    assert web.get("/api/runs/6").json()["state"] == "cancelled"
    started = web.post("/api/runs", json={"why": "a test"})
    assert started.status_code == 201
    assert web.get(f"/api/runs/{started.json()['id']}").json()["why"] == "a test"
    assert web.post("/api/releases", json={"run": 4, "note": "go"}).json() == {"id": 5}
    assert web.post("/api/releases", json={"run": 4, "start": False}).status_code == 201
    assert made.actions.released == [(4, "go", True), (4, "", False)]
    made.actions.fails = True
    refused = web.post("/api/releases", json={"run": 4})
    assert (refused.status_code, refused.json()["error"]) == (503, "broker")


def test_runs_are_resumed_and_repeated(web: TestClient) -> None:
    assert web.post("/api/runs/6/cancel", json={}).status_code == 200
    again = web.post("/api/runs/4/again", json={})
    assert (again.status_code, again.json()) == (201, {"id": 7})
    assert web.get("/api/runs/7").json()["why"] == "run 4 again"
    web.post("/api/runs/7/cancel", json={})
    for run in (6, 5):
        assert web.post(f"/api/runs/{run}/resume", json={}).status_code == 200
        found = web.get(f"/api/runs/{run}").json()
        assert (found["state"], found["ended_at"], found["error"]) == ("queued", None, "")
    assert web.post("/api/runs/6/resume", json={}).json()["message"] == (
        "run 6 is queued; only a cancelled or failed run can be resumed"
    )


def test_a_run_carries_its_figures(web: TestClient) -> None:
    run = web.get("/api/runs/4").json()
    assert run["verdict"] == "better" == run["comparison"]["verdict"]
    assert run["comparison"]["auc_gain"]["low"] > 0
    assert run["before"]["auc"]["value"] < run["evaluation"]["auc"]["value"]
    assert [one["name"] for one in run["evaluation"]["classes"]] == ["good", "defect"]
    assert sum(map(sum, run["evaluation"]["confusion"])) == run["evaluation"]["n"] == 260
    assert len(run["curve"]) == 64


def test_figures_with_missing_keys_still_show(web: TestClient, made: Seeded) -> None:
    with made.store.write() as session:
        run = session.get(Run, 4)
        assert run is not None
        run.evaluation, run.comparison = {"auc": 0.9, "classes": [{}, None, {"n": 3}]}, {"verdict": "odd"}
        session.add(run)
    assert web.get("/api/runs/4").json()["evaluation"]["auc"] == {"value": 0.9, "low": 0.9, "high": 0.9}
    for page in ("/", "/runs", "/runs/4", "/releases"):
        assert web.get(page).status_code == 200, page


def test_a_held_rollout_is_resumed_once(web: TestClient) -> None:
    assert web.post("/api/rollout/resume", json={}).status_code == 200
    assert web.get("/api/overview").json()["rollout"]["state"] == "running"
    assert web.post("/api/rollout/resume", json={}).status_code == 409


def test_health_follows_the_broker(web: TestClient, made: Seeded) -> None:
    assert web.get("/api/health").status_code == 200
    made.actions.broker = False
    answer = web.get("/api/health")
    assert (answer.status_code, answer.json()["ok"]) == (503, False)


def test_openapi_describes_every_path_and_no_page_loads_foreign_scripts(web: TestClient) -> None:
    paths = web.get("/openapi.json").json()["paths"]
    assert {"/api/overview", "/api/labels", "/api/undo", "/api/rollout/resume", "/api/health"} <= paths.keys()
    assert web.get("/docs").status_code == web.get("/redoc").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8080"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"host": "evil.example"}, 421),
        ({"host": "localhost:8080"}, 200),
        ({"host": "[::1]:8080"}, 200),
    ],
)
def test_other_sites_change_nothing(web: TestClient, made: Seeded, headers: dict[str, str], status: int) -> None:
    image = first(web)
    body = b'{"image": %d, "name": "good", "operator": "Mira"}' % image
    answer = web.post("/api/labels", content=body, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status
    assert len(labels(made, image)) == (1 if status == 200 else 0)


def test_large_bodies_are_refused_before_they_are_read(web: TestClient) -> None:
    answer = web.post("/api/labels", content=b" " * (guard.MAX_BODY + 1), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_every_page_forbids_inline_scripts_and_frames(web: TestClient) -> None:
    for path in ("/", "/label", "/nowhere", "/api/overview", "/static/app.js"):
        policy = web.get(path).headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_only_loopback_names_are_checked(made: Seeded) -> None:
    assert guard.is_loopback("127.0.0.1")
    assert guard.is_loopback("::1")
    assert guard.is_loopback("localhost")
    assert not guard.is_loopback("0.0.0.0")
    assert not guard.is_loopback("10.0.0.7")


def test_the_stream_tells_what_changed_and_ends_with_the_server(made: Seeded) -> None:
    server = WebServer(create_app(made.settings, made.store, made.desk, made.actions, made.clock), "127.0.0.1", 0)
    server.start()
    lines: list[str] = []
    opened, told, ended = threading.Event(), threading.Event(), threading.Event()

    def listen() -> None:
        with httpx.stream("GET", f"{server.url}/stream?seen=labels:old", timeout=10) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                lines.append(line)
                opened.set()
                if lines.count("event: labels") >= 2:
                    told.set()
        ended.set()

    thread = threading.Thread(target=listen)
    thread.start()
    assert opened.wait(5)
    time.sleep(0.3)
    made.desk.skip(made.desk.next(1)[0].id or 0, operator="Mira")
    assert told.wait(5), lines
    begin = time.monotonic()
    server.stop()
    assert ended.wait(2)
    assert time.monotonic() - begin < 2
    thread.join()


def test_a_state_survives_its_way_through_an_event_id() -> None:
    assert stream.parse(stream.name({"runs": "a1", "cameras": "b2"})) == {"runs": "a1", "cameras": "b2"}
    assert stream.parse("garbage") == {}


def test_a_taken_port_is_a_clear_error(made: Seeded) -> None:
    app = create_app(made.settings, made.store, made.desk, made.actions, made.clock)
    one = WebServer(app, "127.0.0.1", 0)
    one.start()
    with pytest.raises(PortInUseError):
        WebServer(app, "127.0.0.1", int(one.url.rpartition(":")[2]))
    one.stop()


def test_the_web_never_imports_torch_or_litert() -> None:
    code = (
        "import sys, hub.web.app, hub.web.serve;"
        "bad = [one for one in sys.modules if one.split('.')[0] in ('torch', 'ai_edge_litert', 'litert_torch')];"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_undos_of_one_decision_at_once_take_back_that_one_only(web: TestClient, made: Seeded) -> None:
    before, last = (one["id"] for one in web.get("/api/queue", params={"count": 2}).json()["items"])
    web.post("/api/labels", json={"image": before, "name": "good", "operator": "Mira"})
    named = web.post("/api/labels", json={"image": last, "name": "good", "operator": "Mira"}).json()["id"]
    with ThreadPoolExecutor(10) as pool:
        asks = [pool.submit(web.post, "/api/undo", json={"operator": "Mira", "label": named}) for _ in range(10)]
        answers = [one.result() for one in asks]
    assert {one.status_code for one in answers} == {200}
    assert len({one.json()["id"] for one in answers}) == 1
    assert labels(made, before) == [("label", "good")]


def test_one_decision_on_many_counts_once_and_is_taken_back_at_once(web: TestClient, made: Seeded) -> None:
    groups = web.get("/api/clusters?count=3").json()
    assert 1 <= len(groups) <= 3
    assert [one["size"] for one in groups] == sorted((one["size"] for one in groups), reverse=True)
    with made.store.read() as session:
        audits = session.exec(select(Image).where(*waits("cells"), Image.why == "audit")).all()
    assert len(audits) == 2, "of these, nobody picks which get a label"
    assert sum(one["size"] for one in groups) == made.desk.counts().waiting - len(audits)
    images = [one["id"] for one in groups[0]["images"]]
    ask = {"images": images, "name": "defect", "operator": "Mira", "bulk": "0123456789abcdef"}
    once, again = web.post("/api/bulk", json=ask), web.post("/api/bulk", json=ask)
    assert once.json() == again.json()
    assert {one["bulk"] for one in once.json()} == {ask["bulk"]}
    assert [labels(made, one) for one in images] == [[("label", "defect")]] * len(images)
    undo = {"operator": "Mira", "bulk": ask["bulk"]}
    assert len(web.post("/api/bulk/undo", json=undo).json()) == len(images)
    assert web.post("/api/bulk/undo", json=undo).json() == []
    assert [labels(made, one) for one in images] == [[("label", "defect"), ("undo", "")]] * len(images)
    assert web.post("/api/bulk/undo", json={**undo, "operator": "Tom"}).status_code == 422
    assert web.post("/api/bulk", json={**ask, "bulk": "x"}).status_code == 422
    assert web.post("/api/bulk", json={**ask, "bulk": "0123456789abcdee", "name": "crack"}).status_code == 422


def test_what_is_asked_again_hides_what_was_said_and_counts_once(web: TestClient, made: Seeded) -> None:
    image = next(one["id"] for one in web.get("/api/images?state=labelled&split=pool").json()["items"])
    with made.store.write() as session:
        run = session.exec(select(Run.id).where(Run.state == "done").order_by(col(Run.id).desc())).first()
        row = session.get(Image, image)
        assert row is not None
        assert row.label is not None
        session.add(Suspect(run_id=run, image_id=image, label=row.label, guess="good", confidence=0.1))
    assert web.get("/api/agreement").json()["suspects"] == 1
    eager = Desk(made.store, "cells", ["good", "defect"], made.clock, settings=lambda: LabelSettings(second_look=0.5))
    [item] = [
        one for one in Images("cells", made.store, eager).queue(50, []).model_dump()["items"] if one["ask"] == "second"
    ]
    assert (item["id"], item["guess"], item["score"], item["scores"], item["why"]) == (image, "", None, {}, "")
    before = len(labels(made, image))
    ask = {"image": image, "name": row.label, "operator": "Mira", "ask": "second"}
    assert web.post("/api/labels", json=ask).json()["id"] == web.post("/api/labels", json=ask).json()["id"]
    assert len(labels(made, image)) == before + 1
    found = web.get("/api/agreement").json()
    assert found["suspects"] == 0
    assert found["second"] == {"n": 1, "share": 1.0, "kappa": None}
    assert found["repeats"] is None
    assert web.get("/api/overview").json()["again"] == found
    assert web.post("/api/labels", json={**ask, "ask": "third"}).status_code == 422


def test_a_program_that_knows_nothing_of_second_looks_is_not_asked_for_ever(made: Seeded) -> None:
    eager = Desk(made.store, "cells", ["good", "defect"], made.clock, settings=lambda: LabelSettings(second_look=0.5))
    app = create_app(made.settings, made.store, eager, made.actions, made.clock)
    web = TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)
    decided = [one["id"] for one in web.get("/api/images?state=labelled&split=pool").json()["items"]][:2]
    assert len(decided) == 2
    with made.store.write() as session:
        run = session.exec(select(Run.id).where(Run.state == "done").order_by(col(Run.id).desc())).first()
        for number, one in enumerate(decided):
            row = session.get(Image, one)
            assert row is not None
            assert row.label is not None
            session.add(Suspect(run_id=run, image_id=one, label=row.label, guess="good", confidence=0.1 + number / 10))
    for one in decided:  # the operator whose answers will be the same once more
        said = web.get(f"/api/images/{one}").json()["label"]
        web.post("/api/labels", json={"image": one, "name": said, "operator": "script"})
    asked = []
    for _ in range(50):
        items = web.get("/api/queue?count=1").json()["items"]
        if not items:
            break
        if items[0]["ask"]:
            asked.append((items[0]["id"], items[0]["ask"]))
        said = web.get(f"/api/images/{items[0]['id']}").json()["label"] or "good"
        label = {"image": items[0]["id"], "name": said, "operator": "script"}
        assert web.post("/api/labels", json=label).json()["ask"] == items[0]["ask"]
    else:
        pytest.fail("the queue does not end")
    assert set(asked) >= {(one, "second") for one in decided}
    assert len(asked) == len(set(asked))


def test_a_cameras_skew_is_that_of_its_images(web: TestClient, made: Seeded) -> None:
    with made.store.write() as session:
        for number, distance in enumerate((0.02, 0.03, None, 0.4)):
            session.add(Skew(camera="line-1/top", event_id=f"e{number}", vector=b"", distance=distance))
    found = web.get("/api/cameras/line-1/top").json()["skew"]
    assert found == {"n": 3, "median": 0.03, "largest": 0.4, "far": True}
    assert web.get("/api/cameras/line-1/side").json()["skew"] is None
    assert "sees otherwise than the hub" in web.get("/").text
