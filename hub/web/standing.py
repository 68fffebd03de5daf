"""Where a rollout stands, in words that somebody at the line understands. Pure: progress and cameras in, text out."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from hub.criteria import lacks
from hub.progress import Progress, Stage, of_stage
from hub.seen import CameraView, Evidence
from hub.settings import RolloutSettings
from hub.stages import read_spec
from hub.web.rollouts import Act, Place, RolloutView, StageView

TITLES: dict[Stage, str] = {
    "draft": "Draft",
    "shadow": "Shadow",
    "canary": "Canary",
    "group": "Group",
    "everyone": "Everyone",
    "done": "Rolled out",
}


def course(progress: Progress, settings: RolloutSettings) -> list[tuple[Stage, int]]:
    """The stages of a rollout in their order, a group with its number: those that were, and those that are set."""
    if progress.kind != "upgrade" or not progress.previous:
        return [("draft", 0), ("everyone", 0), ("done", 0)]
    draft = progress.stage == "draft"
    shadow = settings.shadow if draft else len(progress.shadows)
    canary = settings.canary if draft or progress.stage == "shadow" else len(progress.canaries)
    first: list[tuple[Stage, int]] = [("draft", 0)]
    first += [("shadow", 0)] if shadow else []
    first += [("canary", 0)] if canary else []
    groups = range(len(settings.groups if draft else progress.specs))
    return [*first, *(("group", number) for number in groups), ("everyone", 0), ("done", 0)]


def stages(progress: Progress, cameras: Sequence[CameraView], settings: RolloutSettings) -> list[StageView]:
    """All stages of a rollout, with the cameras that each is about."""
    way = course(progress, settings)
    here = _here(progress)
    at = way.index(here) if here in way else 0
    found = []
    for number, (stage, group) in enumerate(way):
        about = _about(progress, stage, group, cameras)
        spec = _spec(progress, settings, group) if stage == "group" else ""
        found.append(
            StageView(
                stage=stage,
                group=spec,
                title=spec_title(spec) if spec else TITLES[stage],
                place=_place(progress, number, at),
                cameras=[one.name for one in about],
                running=sum(one.release == progress.release for one in about),
                goal=_goal(progress, stage, spec, settings),
            )
        )
    return found


def summary(
    progress: Progress, cameras: Sequence[CameraView], evidence: Evidence, gone: Progress | None = None
) -> RolloutView:
    """A rollout in short. gone: the one that it goes back from, if it does."""
    about = cameras if progress.stage in ("draft", "done") or progress.ended else of_stage(progress, cameras)
    running = sum(one.release == progress.release for one in about)
    return RolloutView(
        release=progress.release,
        previous=progress.previous,
        kind=progress.kind,
        stage=progress.stage,
        group=progress.specs[progress.group] if progress.stage == "group" else "",
        state=progress.state,
        reason=progress.reason,
        cameras=list(progress.canaries),
        since=progress.since,
        running=running,
        wanted=len(about),
        reverts=gone.release if gone else 0,
        gone=_words(gone, evidence, "") if gone else "",
        words=_words(progress, evidence, f"{running} of {len(about)}"),
    )


def proving(progress: Progress, settings: RolloutSettings) -> str:
    """What the present stage is there to prove; "" where nothing is."""
    if progress.ended or progress.stage == "draft":
        return ""
    return _goal(progress, progress.stage, _now(progress), settings)


def waits_for(
    progress: Progress, cameras: Sequence[CameraView], evidence: Evidence, settings: RolloutSettings, now: datetime
) -> str:
    """What the present stage lacks, as the rules see it; "" for nothing."""
    if progress.ended or progress.stage == "draft":
        return ""
    concerned = [one for one in of_stage(progress, cameras) if one.name not in progress.forgiven]
    return lacks(progress, concerned, evidence, settings, now)


def next_words(progress: Progress, settings: RolloutSettings) -> str:
    """What comes after the present stage."""
    if progress.ended:
        return ""
    if progress.state == "held":
        if progress.stage == "draft":
            return "Nothing begins until somebody starts it."
        return "Cameras keep what they run until somebody resumes, promotes or aborts it."
    way = course(progress, settings)
    here = _here(progress)
    stage, group = way[min(way.index(here) + 1, len(way) - 1)] if here in way else ("done", 0)
    return f"Then {_coming(stage, _spec(progress, settings, group) if stage == 'group' else '')}."


def acts(progress: Progress) -> list[Act]:
    """What an operator may do with it."""
    if progress.ended:
        return []
    return ["resume" if progress.state == "held" else "pause", "promote", "abort"]


def spec_title(spec: str) -> str:
    """A group as a heading."""
    one = read_spec(spec)
    if one.percent is not None:
        return f"{one.percent:g} %"
    return f"{one.count} cameras" if one.count is not None else spec


def spec_words(spec: str) -> str:
    """A group in a sentence."""
    one = read_spec(spec)
    if one.percent is not None:
        return f"{one.percent:g} % of the cameras"
    return f"{one.count} cameras" if one.count is not None else f"the cameras with {spec.replace(',', ' and ')}"


def names(all_of: Sequence[str], most: int = 3) -> str:
    """A few names, and how many more."""
    if len(all_of) > most + 1:
        return f"{', '.join(all_of[:most])} and {len(all_of) - most} more"
    return " and ".join([", ".join(all_of[:-1]), all_of[-1]] if len(all_of) > 1 else all_of)


# -- below the surface


def _here(progress: Progress) -> tuple[Stage, int]:
    return progress.stage, progress.group if progress.stage == "group" else 0


def _now(progress: Progress) -> str:
    return progress.specs[progress.group] if progress.stage == "group" else ""


def _spec(progress: Progress, settings: RolloutSettings, group: int) -> str:
    return (settings.groups if progress.stage == "draft" else progress.specs)[group]


def _place(progress: Progress, number: int, at: int) -> Place:
    if number < at or progress.stage == "done":
        return "past"
    if number > at:
        return "next"
    return "stopped" if progress.ended else "now"


def _about(progress: Progress, stage: Stage, group: int, cameras: Sequence[CameraView]) -> Sequence[CameraView]:
    """The cameras of a stage: none of a group that has not been reached, since nobody has counted them out yet."""
    if stage == "draft" or (stage == "group" and group >= len(progress.named)):
        return []
    return of_stage(replace(progress, stage=stage, group=group, named=progress.named[: group + 1]), cameras)


def _goal(progress: Progress, stage: Stage, spec: str, settings: RolloutSettings) -> str:
    new, old = f"release {progress.release}", f"release {progress.previous}"
    match stage:
        case "draft":
            return "It waits for its turn."
        case "shadow":
            return (
                f"Does {new} keep up? On {names(progress.shadows) or 'a camera'} it runs beside {old}, on the same "
                f"frames, and decides nothing there. Over {settings.shadow_frames} frames speed, low scores and "
                "classes are compared."
            )
        case "canary":
            first = names(progress.canaries) or "the first cameras"
            if not settings.quality:
                return f"Does {new} run without failure on {first} for {settings.soak_s:g} s?"
            return (
                f"Is {new} right as often as {old}? It is in use on {first}, where both judge "
                f"{_percent(settings.share)} of the frames. Where they differ, a person says what is right. It goes on "
                f"once {new} is proven to get at most {_percent(settings.margin)} more of all frames wrong."
            )
        case "group":
            return f"Does {new} run without failure on {spec_words(spec)} for {settings.soak_s:g} s?"
        case "everyone":
            return f"Every camera that is online takes {new}."
        case "done":
            return f"Every camera that is online runs {new}."


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _coming(stage: Stage, spec: str) -> str:
    match stage:
        case "shadow":
            return "it runs beside the release in use, where it can do no harm"
        case "canary":
            return "the first cameras use it"
        case "group":
            return f"{spec_words(spec)} get it"
        case "everyone":
            return "every camera gets it"
        case _:
            return "it is rolled out"


def _words(progress: Progress, evidence: Evidence, reached: str) -> str:
    new, old = f"Release {progress.release}", f"release {progress.previous}"
    why = progress.reason.rstrip(".") or "no reason given"
    if progress.state == "superseded":
        return f"{new} was replaced by a newer one before its turn."
    if progress.state == "reverted":
        return f"{new} was taken back: {why}."
    if progress.state == "aborted":
        return f"{new} was {why}." if why.startswith("aborted") else f"{new} was aborted: {why}."
    if progress.stage == "draft":
        return f"{new} is {why}." if progress.state == "held" else f"{new} {why}."
    if progress.state == "held":
        where = f" in stage {TITLES[progress.stage].lower()}" if progress.stage != "everyone" else ""
        return f"{new} is held{where}: {why}. No further camera gets it until you resume."
    if progress.kind == "back":
        return f"{new} takes every camera back to the model of {old}: {reached} run it."
    return _under_way(progress, evidence, reached)


def _under_way(progress: Progress, evidence: Evidence, reached: str) -> str:
    new, old = f"Release {progress.release}", f"release {progress.previous}"
    match progress.stage:
        case "shadow":
            frames = sum(one.frames for one in evidence.shadow.values())
            differed = sum(one.differed for one in evidence.shadow.values())
            so_far = f": {frames} frames judged with both, {differed} called otherwise" if frames else ""
            return f"{new} runs beside {old} on {names(progress.shadows)}{so_far}."
        case "canary":
            rest = f"the others keep {old}" if progress.previous else "the others wait"
            pairs = evidence.pairs
            so_far = f" {pairs.frames} frames judged with both, {pairs.open} differences open." if pairs.frames else ""
            return f"{new} proves itself on {names(progress.canaries) or 'the canaries'} first; {rest}.{so_far}"
        case "group":
            return f"{new} goes to {spec_words(progress.specs[progress.group])}: {reached} run it."
        case "done":
            return f"{new} is rolled out: {reached} cameras run it."
        case _:
            return f"{new} goes to every camera: {reached} run it."
