"""Accept: what plans, exceptions and manifests say, taken where signature, time and number are as they should be.

What is signed and when is for `edge.trust`; here are the numbers, which only grow, and what holds of the accepted.
"""

import logging
from collections import Counter
from typing import Any

from edge.policy import Policy, policy_of
from edge.settings import EdgeSettings
from edge.shelf import Shelf
from edge.trust import Trust
from shared.errors import ExpiredError, ManifestError, SettingError
from shared.manifest import (
    DESIRED_TYPE,
    PLAN_TYPE,
    RELEASE_TYPE,
    Desired,
    Group,
    Manifest,
    Plan,
    Trial,
    check_number,
)

log = logging.getLogger(__name__)


class Accepted:
    """What this camera was told to run. Not thread-safe: `edge.reload` alone uses it, but anyone may read `policy`.

    policy: what the project says of triage.
    """

    def __init__(self, settings: EdgeSettings, *, trust: Trust, shelf: Shelf, errors: Counter[str]) -> None:
        self._settings = settings
        self._trust = trust
        self._shelf = shelf
        self._errors = errors
        self._plan: Plan | None = None
        self._overdue = 0  # number of the plan of which it was said that no newer one came in time
        self.policy = Policy()

    # -- what is signed

    def take_plan(self, data: bytes) -> None:
        """This plan holds from now on; ManifestError says why it does not."""
        opened = self._trust.open(data, PLAN_TYPE, Plan)
        check_number("plan", opened.body.number, self._shelf.state.plan_floor)
        self._trust.accept(opened, plan_floor=opened.body.number)
        self._plan = opened.body
        self._take_policy(opened.body.triage)

    def take_desired(self, data: bytes) -> None:
        """This exception holds from now on, also after a restart; ManifestError says why it does not."""
        opened = self._trust.open(data, DESIRED_TYPE, Desired)
        desired = opened.body
        check_number("desired", desired.number, self._shelf.state.desired_floor)
        self._shelf.change(desired=desired.release)
        self._trust.accept(opened, desired_floor=desired.number)

    def manifest(self, number: int, data: bytes, *, trying: bool) -> Manifest:
        """The manifest that came on this release's topic; ManifestError says why it is refused.

        trying: it is only to be tried beside the one in use, and so may be older.
        """
        opened = self._trust.open(data, RELEASE_TYPE, Manifest)
        manifest = opened.body
        if manifest.number != number:
            raise ManifestError(f"says {manifest.number} on the topic of {number}", subject="release")
        self.check_release(number, trying=trying)
        self._trust.accept(opened)
        return manifest

    def check_release(self, number: int, *, trying: bool = False) -> None:
        """ManifestError for a release that is older than one that ran, or failed here. trying: as for `manifest`."""
        floor = 0 if trying else self._shelf.state.floor
        check_number("release", number, floor, frozenset(self._shelf.state.failed))

    # -- what holds

    @property
    def group(self) -> Group | None:
        """The plan's group that holds this camera."""
        return self._plan.group_for(self._settings.camera, self._settings.labels) if self._plan else None

    @property
    def release(self) -> int | None:
        """The release that the exception or the plan names."""
        group = self.group
        return self._shelf.state.desired or (group.release if group else None)

    @property
    def trial(self) -> Trial | None:
        """What the plan has tried beside that; never on a camera with an exception."""
        group = self.group
        return group.trial if group and not self._shelf.state.desired else None

    def waiting(self) -> str:
        """What is to be said while nothing is wrong: that a pack waits for its plan, or nothing."""
        brought = self._shelf.state.brought
        if brought is None:
            return ""
        return f"release {brought.release} was brought by a pack and waits for its plan, which names {self.release}"

    def notice_silence(self) -> None:
        """Raise once that a plan has expired and no newer one came: the hub signs anew at half time, if it is heard."""
        plan, reader = self._plan, self._trust.reader()
        if plan is None or not reader.clock_trusted or plan.expires > reader.now or self._overdue == plan.number:
            return
        self._overdue = plan.number
        raise ExpiredError(
            f"expired at {plan.expires:%Y-%m-%d %H:%M} UTC, and no newer one came",
            subject=f"plan {plan.number}",
            remedy="Is the hub running, and does somebody hold its plans back?",
        )

    def recall_policy(self) -> None:
        """Of triage what the last plan said holds again, as after a restart."""
        self._take_policy(self._shelf.state.triage)

    def _take_policy(self, told: dict[str, Any] | None) -> None:
        """What a plan says of triage holds from now on; where this agent cannot follow it, what it followed stays."""
        try:
            self.policy = policy_of(told)
        except SettingError as error:
            self._errors[error.code] += 1
            log.error("reload: %s", error)
            self.policy = Policy(self.policy.triage, refused=str(error))
        else:
            if told != self._shelf.state.triage:
                self._shelf.change(triage=told)
