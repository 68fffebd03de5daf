"""What the demo shows in the terminal: the fleet while it runs, and the figures at its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def live(overview: Mapping[str, Any] | None, *, url: str, labels: int, step: str) -> RenderableType:
    """The fleet right now. overview: answer of /api/overview, None before the hub answers."""
    head = Text.assemble(("Hone demo  ", "bold"), (url, "underline"), f"   {step}")
    if overview is None:
        return head
    cameras = Table(expand=True, box=None, pad_edge=False)
    for name in ("camera", "state", "release", "frames", "frames/s", "low score", "spool"):
        cameras.add_column(name, justify="left" if name in ("camera", "state") else "right")
    for one in overview["cameras"]:
        cameras.add_row(
            one["name"],
            one["words"],
            str(one["release"] or "-"),
            str(one["captured"] or 0),
            f"{one['fps'] or 0:.1f}",
            f"{100 * (one['low_score'] or 0):.0f} %",
            str(one["spool_left"] or 0),
        )
    queue = overview["queue"]
    desk = f"{queue['waiting']} wait for a label, {queue['labelled']} labelled, {labels} by the script"
    run = overview["current"]
    way = overview["rollout"]
    rollout = f"rollout: {way['words']}" if way else "no rollout yet"
    training = f"run {run['id']}: {run['step']} ({100 * run['progress']:.0f} %)" if run else "no run under way"
    return Group(
        head, cameras, Text(f"images {overview['totals']['stored']} stored, {desk}"), Text(training), Text(rollout)
    )


def line(overview: Mapping[str, Any], step: str, labels: int) -> str:
    """The same in one line, for a terminal that is none."""
    cameras = overview["cameras"]
    frames = sum(one["captured"] or 0 for one in cameras)
    running = ",".join(str(one["release"]) for one in cameras)
    run, way = overview["current"], overview["rollout"]
    stage = f", release {way['release']} {way['stage']} {way['state']}" if way and way["stage"] != "done" else ""
    return (
        f"{step}: frames {frames}, on release {running or '-'}, stored {overview['totals']['stored']}, "
        f"labels {labels}, waiting {overview['queue']['waiting']}"
        + (f", run {run['id']} {run['step']}" if run else "")
        + stage
    )


def final(result: Mapping[str, Any]) -> RenderableType:
    """The figures of demo.json as a table."""
    releases = Table(title="Releases, each on the holdout as it was", title_justify="left")
    for name in (
        "release",
        "holdout",
        "AUC [95 %]",
        "accuracy [95 %]",
        "balanced accuracy [95 %]",
        "bytes to a camera",
    ):
        releases.add_column(name, justify="right")
    for one in result["releases"]:
        releases.add_row(
            str(one["release"]),
            f"version {one['holdout']}",
            *(
                f"{one[key]:.3f} [{one[key + '_low']:.3f}, {one[key + '_high']:.3f}]"
                for key in ("auc", "accuracy", "balanced_accuracy")
            ),
            f"{one['bytes']:,}",
        )
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    gain, images, frames = result["gain"], result["images"], result["frames"]
    random_auc = result["random_labels_auc"]
    if gain["auc"] is not None:
        facts.add_row("gain", f"AUC +{gain['auc']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}], last against first")
    facts.add_row("labels", f"{result['labels']}")
    if random_auc is not None:
        facts.add_row("as many random labels", f"AUC {random_auc:.3f} (mean of ten draws)")
    facts.add_row(
        "images",
        f"{images['spooled']} spooled, {images['stored']} stored, {images['left']} left, {images['dropped']} dropped",
    )
    chosen = (f"{why} {one['images']} ({one['labels']} labelled)" for why, one in result["chosen"].items())
    facts.add_row("chosen by", ", ".join(chosen))
    facts.add_row("bytes", f"{result['bytes']['up']:,} up, {result['bytes']['down']:,} down")
    if len(result["releases"]) > 1:
        first, second = result["releases"][0]["bytes"], result["releases"][1]["bytes"]
        facts.add_row("second release", f"{100 * second / first:.2f} % of the first one's bytes")
    facts.add_row("frames", f"{frames['captured']} captured, {frames['dropped']} dropped")
    cameras = result["cameras"]
    facts.add_row("cameras", f"{cameras['on_last_release']} of {cameras['total']} run the last release")
    if result["reload_ms"] is not None:
        facts.add_row("reload", f"{result['reload_ms']:.0f} ms from plan to swap, the slowest camera")
    facts.add_row("time", f"{result['seconds']:.0f} s, seed {result['seed']}")
    return Group(releases, stages(result["rollouts"]), facts)


def stages(rollouts: Sequence[Mapping[str, Any]]) -> Table:
    """The way of each release through the fleet: when it came to which stage, and why it left it."""
    shown = Table(title="Rollouts", title_justify="left")
    for name in ("release", "after", "stage", "state", "why"):
        shown.add_column(name, justify="right" if name in ("release", "after") else "left")
    for way in rollouts:
        for line in way["stages"]:
            stage = f"{line['stage']} {line['group']}".strip()
            number = str(way["release"])
            shown.add_row(number, f"{line['seconds']:.0f} s", stage, line["state"], line["reason"])
    return shown


def bad(result: Mapping[str, Any]) -> RenderableType:
    """The figures of the story of a bad release."""
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    rollback, auc = result["rollback"], result["holdout_auc"]
    facts.add_row(
        "on the holdout", f"AUC {auc[1]:.3f} before, {auc[2]:.3f} with the supplier's labels: {result['verdict']}"
    )
    facts.add_row("in the field", rollback["reason"])
    facts.add_row(
        "rolled back",
        f"at the {rollback['stage']}, after {rollback['labels']} labels" if rollback["happened"] else "no",
    )
    facts.add_row("cameras that ran it", f"{rollback['cameras_harmed']} of {rollback['cameras']}")
    facts.add_row("they run now", f"release {', '.join(map(str, result['running']))}, the model of release 1")
    facts.add_row("time", f"{result['seconds']:.0f} s, seed {result['seed']}")
    return Group(stages(result["rollouts"]), facts)
