"""What a camera said -> how it stands: which release it should run, and its state in words. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from hub.skew import Skew
from hub.tables import Camera
from hub.web.fleet import CameraStatus, CameraTrial, CameraView, Follows, PreviewCounts, SkewView
from hub.web.rollouts import ExemptionView
from shared.manifest import Group
from shared.messages import Reported, SpoolState, TriageState, TrialState
from shared.policy import TriageSettings, to_wire


@dataclass(frozen=True, slots=True)
class Orders:
    """What cameras are told to run. groups: of the plan in force, the first that holds a camera decides; exemptions:
    releases that single cameras run instead."""

    groups: Sequence[Group] = ()
    exemptions: Mapping[str, ExemptionView] = field(default_factory=dict)

    def target(self, camera: str, labels: Mapping[str, str]) -> int:
        """The release that a camera should run now; 0 when there is none yet."""
        if camera in self.exemptions:
            return self.exemptions[camera].release
        return next((one.release for one in self.groups if one.holds(camera, labels)), 0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The triage settings that cameras shall follow; None: each its own. version: of the change they came with; 0: they
    are hub.toml's."""

    triage: TriageSettings | None = None
    version: int = 0


def camera_view(
    camera: Camera,
    orders: Orders,
    previews: PreviewCounts | None = None,
    policy: Wanted | None = None,
    skew: Skew | None = None,
) -> CameraView:
    """A row, what it reported last, its previews and skew; a report that cannot be read counts as none."""
    said = _reported(camera)
    wanted = orders.target(camera.name, said.labels if said else {})
    exemption = orders.exemptions.get(camera.name)
    status, words = _stands(camera, said, wanted)
    base = CameraView(
        name=camera.name,
        online=camera.online,
        first_seen=camera.first_seen,
        last_seen=camera.last_seen,
        release=camera.release,
        target=wanted,
        status=status,
        words=f"{words}, by exemption" if exemption and status == "current" else words,
        floor=camera.floor,
        exemption=exemption,
        previews=previews or PreviewCounts(),
        skew=SkewView(n=skew.n, median=skew.median, largest=skew.largest, far=skew.far) if skew else None,
    )
    if said is None:
        return base
    follows, triage_words = _follows(said.triage, policy or Wanted())
    return base.model_copy(
        update={
            "labels": said.labels,
            "trial": _trial(said.trial),
            "follows": follows,
            "triage": said.triage.settings if said.triage else None,
            "triage_words": triage_words,
            "agent": said.agent,
            "clock": said.clock,
            "reported_at": said.time,
            "fps": said.rates.fps,
            "low_score": said.rates.low_score,
            "infer_ms": said.rates.infer_ms,
            "captured": said.frames.captured,
            "frames_dropped": said.frames.dropped,
            "spool_left": said.spool.left,
            "spool_bytes": said.spool.bytes,
            "spool_limit": said.spool.limit,
            "spool_dropped": said.spool.dropped,
            "spool_quarantined": said.spool.quarantined,
            "audit_left": said.spool.audit_left,
            "audit_dropped": said.spool.audit_dropped,
            "audit_unspooled": said.spool.audit_unspooled,
            "audit_words": _missing(said.spool),
            "reload": said.reload.state,
            "reload_percent": said.reload.percent,
            "swap_ms": said.reload.swap_ms,
            "up": said.up,
            "down": said.down,
            "errors": said.errors,
            "settings": said.settings,
        }
    )


def audits_lost(cameras: Iterable[CameraView]) -> dict[str, int]:
    """Camera -> how many images of the random sample it lost, where it has said; "" -> all of these cameras."""
    found = {
        one.name: one.audit_dropped + (one.audit_unspooled or 0) for one in cameras if one.audit_dropped is not None
    }
    return {**found, "": sum(found.values())} if found else {}


def _reported(camera: Camera) -> Reported | None:
    if not camera.reported:
        return None
    try:
        return msgspec.convert(camera.reported, Reported)
    except msgspec.ValidationError:
        return None


def _stands(camera: Camera, said: Reported | None, wanted: int) -> tuple[CameraStatus, str]:
    if not camera.online:
        return "offline", "Offline"
    if said is None:
        return "silent", "Online, nothing reported yet"
    reload = said.reload
    if reload.state == "failed":
        kept = f"; keeps release {camera.release}" if camera.release else ""
        return "failed", f"Release {reload.release} failed: {reload.reason or 'no reason given'}{kept}"
    if reload.state == "reverted" and camera.release != reload.release:
        return "failed", f"Left release {reload.release}: {reload.reason or 'no reason given'}"
    if reload.state in ("fetching", "verifying"):
        doing = f"Fetching release {reload.release}, {reload.percent:.0f} %"
        return "updating", doing if reload.state == "fetching" else f"Checking release {reload.release}"
    if camera.release != wanted:
        return "waiting", f"Waits for release {wanted}" if wanted else "Runs a model of its own"
    return "current", f"Runs release {camera.release}" if camera.release else "Waits for a first release"


def _trial(said: TrialState | None) -> CameraTrial | None:
    if said is None:
        return None
    frames = max(1, said.frames)
    return CameraTrial(
        beside=said.other,
        skipped=said.skipped,
        frames=said.frames,
        differed=said.differed,
        low=said.low / frames,
        beside_low=said.other_low / frames,
        ms=said.ms,
        beside_ms=said.other_ms,
    )


def _follows(said: TriageState | None, policy: Wanted) -> tuple[Follows, str]:
    """Whether a camera goes by the project's triage settings, by what it reports."""
    name = f"settings {policy.version}" if policy.version else "hub.toml"
    if said is None:
        return "unknown", f"Its agent is too old to follow {name}" if policy.triage else ""
    if said.source == "local":
        return "local", "Follows its own edge.toml: triage_local"
    if policy.triage is None:
        return ("own", "Follows its own edge.toml") if said.source == "edge" else ("waiting", "Follows older settings")
    if said.source == "project" and said.settings == to_wire(policy.triage):
        return "project", f"Follows {name}"
    if said.refused:
        return "refused", f"Cannot follow {name}: {said.refused}"
    return "waiting", f"Does not follow {name} yet"


def _missing(spool: SpoolState) -> str:
    """What the random sample lacks."""
    lost = []
    if spool.audit_dropped:
        lost.append(f"{spool.audit_dropped} dropped from its spool")
    if spool.audit_unspooled:
        lost.append(f"{spool.audit_unspooled} not written since its start")
    return f"Audit images lost, so its sample is not whole: {', '.join(lost)}" if lost else ""
