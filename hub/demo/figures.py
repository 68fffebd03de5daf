"""The figures of demo.json, from the database and the cameras' own reports, and what in them is not as it should be."""

from datetime import datetime
from typing import Any

from sqlmodel import col, func, select

from hub.demo.judge import Judge
from hub.settings import TrainSettings
from hub.store import Store
from hub.tables import Camera, Image, Release, Rollout, Run


def figures(
    store: Store, judge: Judge, train: TrainSettings, *, cameras_total: int, seed: int, seconds: float
) -> dict[str, Any]:
    """What demo.json says. seconds: that the story took."""
    with store.read() as session:
        releases = session.exec(select(Release).order_by(col(Release.number))).all()
        runs = {one.id: one for one in session.exec(select(Run)).all()}
        cameras = session.exec(select(Camera)).all()
        stored = session.exec(select(func.count()).select_from(Image).where(Image.split == "pool")).one()
        labels = session.exec(
            select(func.count()).select_from(Image).where(Image.split == "pool", col(Image.label).is_not(None))
        ).one()
        chosen = session.exec(
            select(Image.why, func.count(), func.count(col(Image.label)))
            .where(Image.split == "pool")
            .group_by(Image.why)
            .order_by(func.count().desc())
        ).all()
    last = releases[-1].number
    gain = judge.gain(store, releases[0].number, last)
    reports = [one.reported for one in cameras]
    reloads = [one["reload"]["last_ms"] for one in reports if one["reload"]["last_ms"] is not None]
    return {
        "seconds": round(seconds, 1),
        "labels": labels,
        "seed": seed,
        "gain": {
            "auc": gain.auc_gain.value if gain.auc_gain else None,
            "low": gain.auc_gain.low if gain.auc_gain else None,
            "high": gain.auc_gain.high if gain.auc_gain else None,
        },
        "random_labels_auc": judge.random_labels_auc(labels, train),
        "rollouts": rollouts(store),
        "releases": [_release_row(one, runs[one.run_id]) for one in releases],
        "images": {
            "spooled": sum(one["spool"]["spooled"] for one in reports),
            "stored": stored,
            "left": sum(one["spool"]["left"] for one in reports),
            "dropped": sum(one["spool"]["dropped"] for one in reports),
            "unspooled": sum(one["spool"]["unspooled"] for one in reports),
            "quarantined": sum(one["spool"]["quarantined"] for one in reports),
        },
        "chosen": {why: {"images": images, "labels": labelled} for why, images, labelled in chosen},
        "bytes": {"up": sum(one["up"] for one in reports), "down": sum(one["down"] for one in reports)},
        "frames": {
            "captured": sum(one["frames"]["captured"] for one in reports),
            "dropped": sum(one["frames"]["dropped"] for one in reports),
        },
        "cameras": {"total": cameras_total, "on_last_release": sum(one.release == last for one in cameras)},
        "reload_ms": max(reloads) if reloads else None,
    }


def rollouts(store: Store) -> list[dict[str, Any]]:
    """The way of each release: its stages, with the seconds since its rollout was made."""
    with store.read() as session:
        rows = session.exec(select(Rollout).order_by(col(Rollout.release))).all()
    found = []
    for row in rows:
        times = [datetime.fromisoformat(one["at"]) for one in row.history]
        found.append(
            {
                "release": row.release,
                "kind": row.kind,
                "state": row.state,
                "labels": row.evidence.get("labels", 0),
                "pairs": row.evidence.get("pairs", {}),
                "stages": [
                    {**one, "seconds": round((at - times[0]).total_seconds(), 1)}
                    for one, at in zip(row.history, times, strict=True)
                ],
            }
        )
    return found


def _release_row(release: Release, run: Run) -> dict[str, Any]:
    """One release in demo.json. holdout: version that it was measured on. bytes: what a camera fetches that runs the
    release before.
    """
    row: dict[str, Any] = {"release": release.number, "holdout": run.holdout}
    for key in ("auc", "accuracy", "balanced_accuracy"):
        interval = run.evaluation[key]
        row |= {key: interval["value"], f"{key}_low": interval["low"], f"{key}_high": interval["high"]}
    return {**row, "bytes": release.new_bytes}


def problems(result: dict[str, Any]) -> list[str]:
    """Everything in which the story did not end as it should."""
    found = []
    releases, images, gain = result["releases"], result["images"], result["gain"]
    if len(releases) < 2:
        found.append("there is no second release")
    elif releases[-1]["auc"] <= releases[0]["auc"]:
        found.append(f"the last release is no better (AUC {releases[-1]['auc']:.3f})")
    elif gain["low"] is None or gain["low"] <= 0:
        found.append("the gain is not proven: its interval reaches 0")
    if result["cameras"]["on_last_release"] != result["cameras"]["total"]:
        found.append("not every camera runs the last release")
    if result["frames"]["dropped"]:
        found.append(f"{result['frames']['dropped']} frames were dropped")
    if images["left"] or images["stored"] + images["dropped"] + images["quarantined"] != images["spooled"]:
        found.append(f"images do not add up: {images}")
    if images["dropped"] or images["unspooled"] or images["quarantined"]:
        found.append(f"images were lost: {images}")
    return found
