"""Pursuit: the one release that is on its way to this camera: its manifest first, then the parts that are missing."""

from collections import Counter
from collections.abc import Callable

from edge.fetch import Fetch
from edge.settings import EdgeSettings
from edge.shelf import Kept, Shelf
from shared import topics
from shared.bus import Bus
from shared.clock import Clock
from shared.manifest import Manifest, VariantName
from shared.messages import Want, encode


class Pursuit:
    """Not thread-safe: `edge.reload` alone uses it.

    number: of the release, 0: none is on its way. trying: it shall only be tried beside the one in use.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        bus: Bus,
        shelf: Shelf,
        clock: Clock,
        errors: Counter[str],
        goodput: Callable[[], float | None],
    ) -> None:
        self._camera = settings.camera
        self._project = settings.project
        self._bus = bus
        self._clock = clock
        self._fetch = Fetch(
            settings.camera, bus=bus, shelf=shelf, errors=errors, thin=settings.link.thin, goodput=goodput
        )
        self._kept: Kept | None = None
        self._heard = 0.0
        self.number = 0
        self.trying = False

    def begin(self, number: int, *, trying: bool = False) -> None:
        """Wait for this release's manifest, and for nothing else."""
        self.drop()
        self.number, self.trying = number, trying
        self._heard = self._clock.monotonic()
        self._bus.subscribe([topics.release(self._project, number)])

    def begin_here(self, kept: Kept, *, trying: bool = False) -> None:
        """This release was accepted before: only parts that are damaged by now are fetched."""
        self.drop()
        self.number, self.trying = kept.release, trying
        self._go_for(kept)

    def waits_for(self, number: int) -> bool:
        """Whether it is this release's manifest that is to come next."""
        return number == self.number and self._kept is None

    def found(self, manifest: Manifest, variant: VariantName) -> None:
        """The manifest was accepted: go after the parts of this variant."""
        self._bus.unsubscribe([topics.release(self._project, self.number)])
        self._go_for(Kept(release=manifest.number, model=manifest.model, variant=variant))

    def chunk(self, sha256: str, index: int, data: bytes) -> bool:
        """A chunk came; whether it is time for `ready`. ReloadError as `Fetch.take`."""
        if not data or not self._fetch.asked(sha256, index):
            return False
        self._heard = self._clock.monotonic()
        return self._fetch.take(sha256, index, data)

    @property
    def percent(self) -> float:
        """How much of the release is here, 0 to 100."""
        return 0.0 if self._kept is None else self._fetch.percent

    def ready(self) -> Kept | None:
        """The release when every part is here, once; else None, and the next chunks are asked for."""
        if self._kept is None:
            return None
        if not self._fetch.done:
            self._fetch.ask()
            return None
        kept, self._kept = self._kept, None
        return kept

    def remind(self) -> bool:
        """Ask the hub to publish anew what did not come for a while; whether that was so."""
        now = self._clock.monotonic()
        if not self.number or now - self._heard < self._fetch.patience():
            return False
        self._heard = now
        if self._kept is None:
            want = Want(project=self._project, release=self.number)
            self._bus.publish(topics.want(self._camera), encode(want))
        self._fetch.remind()
        return True

    def drop(self) -> None:
        """Nothing is wanted any more; complete parts stay on the shelf."""
        self._fetch.drop()
        if self.number:
            self._bus.unsubscribe([topics.release(self._project, self.number)])
        self.number, self.trying, self._kept = 0, False, None

    def _go_for(self, kept: Kept) -> None:
        self._kept = kept
        self._heard = self._clock.monotonic()
        self._fetch.begin(kept.model.parts(kept.variant).values())
