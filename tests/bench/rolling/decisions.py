"""Rollouts on a virtual clock: the real rules, cameras as numbers, models as a joint distribution of being right.

Real: `hub.rollout` (begin, step, groups), and what it decides by: `hub.gate`, `hub.criteria`, `hub.stages`. Restated:
counting pauses while `rollout.batch` differences and more wait, until all are settled, as in `hub.evidence`. Made up: a
camera takes a release some seconds after the plan names it, and never fails; frames come at an even rate, each camera
draws by `share`, both models' answers on it are drawn from the setting, independently; the operator begins with a
difference some time after it came, oldest first, then needs so many seconds for each, is right, and cannot tell a few.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from hub import rollout
from hub.evidence import drawn
from hub.gate import Pairs, judge
from hub.seen import CameraView, Evidence, TrialView
from hub.settings import RolloutSettings

BEGAN = datetime(2026, 3, 1, 8, tzinfo=UTC)
OLD, NEW = 1, 2
TAKES_S = 5.0, 25.0
"""From the plan to the swap, evenly spread."""
MS = 8.0
LOW = 0.1
"""Share of low scores, by either model."""


@dataclass(frozen=True)
class Setting:
    """broken, mended: share of all frames that the new model gets wrong and the old one right, and the other way round.

    bad: it must be found; equal: it must be promoted. settle: of `rollout.settle`. labels: whether anyone labels.
    runs: share of the runs asked for.
    """

    name: str
    broken: float
    mended: float
    kind: str = ""
    settle: float = 1.0
    labels: bool = True
    runs: float = 1.0

    @property
    def worse(self):
        """So much more of all frames does the new model get wrong."""
        return self.broken - self.mended


@dataclass(frozen=True)
class Fleet:
    """cameras: all of them. canary: the first ones. fps, share: of each. delay_s, label_s, cannot: of the operator."""

    cameras: int = 1000
    canary: int = 50
    fps: float = 1.0
    share: float = 0.02
    delay_s: float = 120.0
    label_s: float = 4.0
    cannot: float = 0.03
    look_s: float = 30.0

    def settings(self, settle):
        """The rules as an operator would set them for this fleet; the rest is default."""
        return RolloutSettings(canary=self.canary, share=self.share, settle=settle)


@dataclass
class Outcome:
    """state, stage: where it ended. harmed: cameras that ran the new release as theirs. labels: settled when it left
    the canary stage, or ended there. seconds: until then, from the beginning of that stage; total: of all stages.
    """

    state: str = ""
    stage: str = ""
    harmed: int = 0
    labels: int = 0
    frames: int = 0
    seconds: float = 0.0
    total: float = 0.0
    reason: str = ""


@dataclass
class _Run:
    setting: Setting
    fleet: Fleet
    chance: np.random.Generator
    now: datetime = BEGAN
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("frames", "broken", "mended", "tied"), 0))
    waiting: list[tuple[datetime, str]] = field(default_factory=list)  # since when, and what it will be found to be
    free_at: datetime = BEGAN  # when the operator has time for the next one
    paused: bool = False  # no more is counted until what waits is settled

    def __post_init__(self):
        # Where nobody labels nothing can change but by time.
        self.look_s = self.fleet.look_s if self.setting.labels else max(300.0, self.fleet.look_s)
        self.rules = self.fleet.settings(self.setting.settle)
        names = [f"site-{number // 50:02}/cam-{number:04}" for number in range(self.fleet.cameras)]
        self.runs = dict.fromkeys(names, OLD)
        self.takes = {}  # camera -> release that it is about to run, and when
        self.harmed = set()
        self.shadow = 0
        self.judged = self.differed = 0
        self.views = self._views()

    def go(self):
        """From draft to an end, or until it holds."""
        progress = rollout.begin(rollout.draft(NEW, OLD, self.now), self.views, self.rules, self.now)
        self._plan(progress)
        found, canary_since = Outcome(), None
        while not progress.ended and progress.state == "running":
            before = progress
            progress = self._look(progress)
            if progress.stage == "canary" and canary_since is None:
                canary_since = progress.since
            if canary_since is not None and not found.seconds and (progress.stage != "canary" or progress.ended):
                found.labels, found.frames = self._settled(), self.counts["frames"]
                found.seconds = (self.now - canary_since).total_seconds()
            if progress is not before and (progress.stage, progress.group, progress.state) != (
                before.stage,
                before.group,
                before.state,
            ):
                self._plan(progress)
        if not found.seconds:
            found.labels, found.frames = self._settled(), self.counts["frames"]
            found.seconds = (self.now - (canary_since or BEGAN)).total_seconds()
        found.state, found.stage, found.reason = progress.state, progress.stage, progress.reason
        found.harmed = len(self.harmed)
        found.total = (self.now - BEGAN).total_seconds()
        return found

    def _look(self, progress):
        """Until the next look of the hub: labels one by one, each with a look of its own; then frames and reports."""
        until = self.now + timedelta(seconds=self.look_s)
        while self.setting.labels and self.waiting:
            since, what = self.waiting[0]
            done = max(self.free_at, since + timedelta(seconds=self.fleet.delay_s))
            done += timedelta(seconds=self.fleet.label_s)
            if done > until:
                break
            self.waiting.pop(0)
            self.free_at = done
            self.counts[what] += 1
            self.now = max(self.now, done)
            after = self._step(progress)
            if after != progress:
                return after
        self.now = until
        self._frames(progress)
        self._swaps()
        return self._step(progress)

    def _step(self, progress):
        self.paused = len(self.waiting) >= self.rules.batch or (self.paused and bool(self.waiting))
        return rollout.step(progress, self.views, self._evidence(progress), self.rules, self.now)

    def _frames(self, progress):
        """What was drawn since the last look, and what the two models said of it."""
        each = self.fleet.fps * self.look_s
        if progress.stage == "shadow":
            self.shadow += self.chance.binomial(round(each), self.fleet.share)
            return
        running = sum(self.runs[name] == NEW for name in progress.canaries)
        count = self.chance.binomial(round(each * running), self.fleet.share)
        self.judged += int(count)
        if self.paused:
            return
        setting = self.setting
        agree = 1 - setting.broken - setting.mended
        broken, mended, _ = self.chance.multinomial(count, [setting.broken, setting.mended, agree])
        self.counts["frames"] += int(count)
        self.differed += int(broken + mended)
        whats = self.chance.permutation(["broken"] * broken + ["mended"] * mended)
        for what in whats:
            if drawn(f"{self.chance.integers(1 << 62):x}", setting.settle):
                unsure = self.chance.random() < self.fleet.cannot
                self.waiting.append((self.now, "tied" if unsure else str(what)))

    def _swaps(self):
        due = [name for name, (_, at) in self.takes.items() if at <= self.now]
        for name in due:
            self.runs[name] = self.takes.pop(name)[0]
            if self.runs[name] == NEW:
                self.harmed.add(name)
        if due:
            self.views = self._views()

    def _plan(self, progress):
        """A plan is signed: each camera goes after what its group runs."""
        groups = rollout.groups(progress, self.rules)
        for name, release in self.runs.items():
            group = next((one for one in groups if one.holds(name, {})), None)
            target = group.release if group else release
            if self.takes.get(name, (release,))[0] != target:
                self.takes.pop(name, None)
                if target != release:
                    self.takes[name] = target, self.now + timedelta(seconds=self.chance.uniform(*TAKES_S))

    def _views(self):
        return [
            CameraView(name, True, release, "running", release, "", {}, MS, LOW) for name, release in self.runs.items()
        ]

    def _settled(self):
        return sum(self.counts[one] for one in ("broken", "mended", "tied"))

    def _evidence(self, progress):
        """As `hub.evidence` finds it; the canaries' counts all under the first one's name."""
        counts = self.counts
        pairs = Pairs(
            counts["frames"], counts["broken"], counts["mended"], counts["tied"], len(self.waiting), self.rules.settle
        )
        low = round(LOW * self.judged)
        both = {"new_ms": MS, "old_ms": MS}
        return Evidence(
            {name: TrialView(frames=self.shadow, **both) for name in progress.shadows},
            {progress.canaries[0]: TrialView("", self.judged, self.differed, low, low, **both)},
            pairs,
            judge(pairs, margin=self.rules.margin, error=self.rules.error),
        )


def one_run(work):
    """The outcome of one rollout; work: setting, fleet, and what seeds the chance."""
    setting, fleet, seed = work
    return _Run(setting, fleet, np.random.default_rng(seed)).go()
