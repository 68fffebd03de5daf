"""The story of a bad release: a supplier's labels make a model that is better on the holdout and worse in the field.

The line makes mono and poly cells, and the model in use has learned from both. Then somebody brings in what a supplier
delivered: many mono cells, labelled well, and poly cells from a list where 1 means good and 0 defective, which nobody
noticed. The holdout knows mono cells alone, and there the new model is better. So it is released, and stopped by what
it does in the field.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlmodel import col, select

from hub.demo import table
from hub.demo.cells import CLASSES, Cell, load
from hub.demo.configuration import FPS, PROJECT
from hub.demo.figures import rollouts
from hub.demo.stage import CAMERAS, Stage
from hub.rollouts import current
from hub.store import Store, open_store
from hub.tables import Release, Rollout, Run

MORE = "[retrain]\nevery_labels = 0\nauto_release = false\n"
PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Deck:
    """holdout: mono cells. start: what the first model learns from. bought: what the second one gets in addition, as
    the supplier's list has it. stream: what the line makes.
    """

    holdout: list[Cell]
    start: list[Cell]
    bought: list[Cell]
    stream: list[Cell]


def deal(cells: Sequence[Cell], seed: int) -> Deck:
    """Deal the cells out; none is in two places."""
    rng = random.Random(seed)
    mono = [one for one in cells if one.kind == "mono"]
    poly = [one for one in cells if one.kind == "poly"]
    rng.shuffle(mono)
    rng.shuffle(poly)
    holdout, mono = mono[:300], mono[300:]
    start, mono = [*mono[:40], *poly[:60]], mono[40:]
    swapped = [replace(one, label=CLASSES[1 - CLASSES.index(one.label)]) for one in poly[60:460]]
    bought = [*mono[:300], *swapped]
    stream = [*mono[300:], *poly[460:]]
    rng.shuffle(stream)
    return Deck(holdout, start, bought, stream)


def tell(stage: Stage) -> list[str]:
    """All acts in their order; what is not as it should be at the end."""
    deck = deal(load(), stage.story.seed)
    settings = stage.hub(MORE)
    stage.cameras(FPS)
    store = open_store(settings)
    try:
        with stage.screen():
            stage.act(f"importing {len(deck.start)} mono and poly cells, and a holdout of mono cells")
            stage.bring(settings, store, "train", deck.start, "train")
            stage.bring(settings, store, "holdout", deck.holdout, "holdout")
            _train_and_release(stage, store, "the first model")
            shares = [deck.stream[number :: len(CAMERAS)] for number in range(len(CAMERAS))]
            stage.start_line(shares, shares, FPS)
            stage.wait("the first release on every camera", lambda: stage.settled(store), 60)
            stage.act("the supplier's list comes in: good and defective are swapped for its poly cells")
            stage.bring(settings, store, "supplier", deck.bought, "train")
            _train_and_release(stage, store, "with the supplier's labels")
            harmed = _watch(stage, store)
            stage.stop_line()
            result = _figures(stage, store, harmed)
    finally:
        store.close()
    stage.say(table.bad(result))
    stage.write(result)
    return _problems(result)


def _train_and_release(stage: Stage, store: Store, why: str) -> None:
    stage.act(f"training: {why}")
    number = stage.post("/api/runs", {"why": why})["id"]

    def done() -> bool:
        with store.read() as session:
            run = session.get(Run, number)
        return run is not None and run.state == "done"

    stage.wait("the run", done, 180)
    stage.post("/api/releases", {"run": number, "note": why})


def _watch(stage: Stage, store: Store) -> set[str]:
    """The operator settles what the two models differ on, until the release is decided; the cameras that ran it."""
    stage.act("release 2 goes its way: shadow, canary …")
    stage.sit_down(0)
    harmed: set[str] = set()

    def decided() -> bool:
        view = stage.overview()
        if view is not None:
            harmed.update(one["name"] for one in view["cameras"] if one["release"] == 2)
        return stage.settled(store)

    stage.wait("the release to be decided", decided, PATIENCE_S)
    return harmed


def _figures(stage: Stage, store: Store, harmed: set[str]) -> dict[str, Any]:
    """What demo.json says."""
    with store.read() as session:
        rows = {one.release: one for one in session.exec(select(Rollout).where(Rollout.project == PROJECT))}
        last = current(session, PROJECT)
        releases = session.exec(select(Release).order_by(col(Release.number))).all()
        runs = {one.number: session.get(Run, one.run_id) for one in releases}
    way = rows[2]
    view = stage.overview() or {"cameras": []}
    return {
        "seconds": round(stage.seconds, 1),
        "seed": stage.story.seed,
        "holdout_auc": {number: run.evaluation["auc"]["value"] for number, run in runs.items() if run is not None},
        "verdict": runs[2].verdict if runs[2] is not None else "",
        "rollouts": rollouts(store),
        "rollback": {
            "happened": way.state == "reverted",
            "stage": next((one["stage"] for one in reversed(way.history) if one["state"] == "reverted"), way.stage),
            "reason": way.reason,
            "cameras_harmed": len(harmed),
            "cameras": len(CAMERAS),
            "labels": way.evidence.get("labels", 0),
            "pairs": way.evidence.get("pairs", {}),
        },
        "running": sorted({one["release"] for one in view["cameras"]}),
        "back": last.release if last is not None else 0,
        "same_model": len(releases) > 2
        and msgspec.json.encode(releases[2].model) == msgspec.json.encode(releases[0].model),
    }


def _problems(result: dict[str, Any]) -> list[str]:
    """Everything in which the story did not end as it should."""
    found = []
    rollback, auc = result["rollback"], result["holdout_auc"]
    if auc[2] <= auc[1]:
        found.append(f"the planted release is not better on the holdout (AUC {auc[2]:.3f} after {auc[1]:.3f})")
    if not rollback["happened"]:
        found.append(f"the bad release was not rolled back ({rollback['reason']})")
    if rollback["stage"] != "canary" or rollback["cameras_harmed"] > 1:
        found.append(f"it got as far as {rollback['stage']}, and {rollback['cameras_harmed']} cameras ran it")
    if result["running"] != [result["back"]] or not result["same_model"]:
        found.append(f"the cameras run {result['running']}, not the first model under number {result['back']}")
    return found
