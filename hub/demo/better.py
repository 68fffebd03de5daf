"""The story of a better model: a line of mono cells switches to poly, the operator labels, and releases follow.

Each release goes through shadow, canary, half of the fleet and everyone; the canary's differences are labelled, too.
"""

import msgspec
from sqlmodel import select

from hub.demo import table
from hub.demo.cells import Split, load, split
from hub.demo.configuration import EVERY, FPS
from hub.demo.figures import figures, problems
from hub.demo.judge import Judge
from hub.demo.stage import CAMERAS, Stage
from hub.settings import HubSettings
from hub.store import Store, open_store
from hub.tables import Release
from shared.files import sha256_hex
from shared.litert import Part
from shared.manifest import ModelSpec

LABELS = 200
PATIENCE_S = 470.0
MORE = f"[retrain]\nevery_labels = {EVERY}\n"


def tell(stage: Stage) -> list[str]:
    """All acts in their order; what is not as it should be at the end."""
    story = stage.story
    cells = split(load(), story.seed, len(CAMERAS), story.frames)
    settings = stage.hub(MORE)
    stage.cameras(FPS)
    store = open_store(settings)
    try:
        with stage.screen():
            _first_release(stage, cells, settings, store)
            judge = _judge(stage, cells, store)
            try:
                _let_it_run(stage, cells, store)
                stage.act("measuring what random labels would have given")
                judge.join(stage.go_on)
                result = figures(
                    store, judge, settings.train, cameras_total=len(CAMERAS), seed=story.seed, seconds=stage.seconds
                )
            finally:
                judge.stop()
    finally:
        store.close()
    stage.say(table.final(result))
    stage.write(result)
    return problems(result)


def _first_release(stage: Stage, cells: Split, settings: HubSettings, store: Store) -> None:
    """Import the start set and the holdout, train, evaluate, release."""
    stage.act("importing 150 mono cells and the holdout")
    stage.bring(settings, store, "train", cells.start, "train")
    stage.bring(settings, store, "holdout", cells.holdout, "holdout")
    stage.act("training the first model")
    stage.post("/api/runs", {"why": "the first model"})
    stage.wait("the first release", lambda: (stage.overview() or {"latest": 0})["latest"] >= 1, 180)


def _judge(stage: Stage, cells: Split, store: Store) -> Judge:
    with store.read() as session:
        model = session.exec(select(Release.model).where(Release.number == 1)).one()
    spec = msgspec.convert(model, ModelSpec)
    part = Part(store.blobs.read(spec.backbone.sha256), name="backbone")
    judge = Judge(cells, part, spec.preprocess, stage.story.seed)
    judge.start()
    return judge


def _let_it_run(stage: Stage, cells: Split, store: Store) -> None:
    """The line runs: mono cells, then poly, then all of them again; the operator labels; the hub releases."""
    stage.act("the line runs mono cells, then poly, then both again")
    feed = stage.start_line(cells.streams, cells.streams, FPS)
    patience = PATIENCE_S
    if stage.story.label == "script":
        # Second looks ask about what was imported to train on, too.
        stage.truth |= {sha256_hex(cell.path.read_bytes()): cell.label for cell in cells.start}
        stage.sit_down(LABELS)
    else:
        stage.say(f"label at {stage.url}/label; the story goes on until Ctrl-C, or {LABELS} labels")
        patience = float("inf")
    quiet = 0

    def ended() -> bool:
        nonlocal quiet
        view = stage.overview()
        if view is None:
            return False
        operator, queue = stage.operator, view["queue"]
        if operator is None:
            desk = queue["labelled"] >= LABELS
        else:  # his budget holds second looks, too
            desk = operator.done or (feed.first_done and queue["waiting"] == 0)
        done = feed.first_done and desk and queue["since_run"] < EVERY and stage.settled(store)
        quiet = quiet + 1 if done else 0
        return quiet >= 3  # between the end of a run and its release lies a moment

    stage.wait("the story to end", ended, patience)
    stage.stop_line()
