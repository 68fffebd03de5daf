"""Leases: which collector serves which site, when several run beside each other on one database.

A collector looks at all leases every RENEW_S, in one transaction, and makes its own beat. No wall clock is asked: what
stands still for LOOKS looks of one's own is over, and who could not look (frozen, no database) learns nothing from the
time that went by. An owner serves until LEASE_S after the last look that it began, on its monotonic clock; by then
nobody else has looked often enough. What a collector does at a look:

    the lease of the site                         | started for the site | not so            | not so, --only
    ----------------------------------------------|----------------------|-------------------|---------------
    there is none                                 | takes                | -                 | -
    gone since it was its own (a restore)         | takes                | takes             | takes
    free (its owner ended in good order)          | takes                | takes             | -
    its own                                       | renews               | renews            | renews
    another's, who was started for the site       | -                    | -                 | -
    another's, who was not (a guest)              | takes, at look LOOKS | -                 | -
    another's, whose beat stood still LOOKS looks | takes                | takes             | -
    under its name by another process, beating    | ends: ConfigError    | ends: ConfigError | ends
    the same, whose beat stood still TWIN_LOOKS   | takes                | takes             | -

So a site that a guest took over goes back to the collector started for it, once that one has lived for LEASE_S.
A guest never takes from anyone alive, and of two that were started for one site the first stays: nothing goes to and
fro. A guest finds out at its next look; until then both serve the site, and the database keeps every event once.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlmodel import col, select, update

from hub.store import Store
from hub.tables import Lease
from shared.clock import Clock
from shared.errors import ConfigError, StoreError

log = logging.getLogger(__name__)
RENEW_S = 2.0
"""Seconds between two looks."""
LOOKS = 5
"""So many looks without a beat, and the owner is taken for dead."""
LEASE_S = LOOKS * RENEW_S
"""Seconds that an owner may serve without renewing."""
TWIN_LOOKS = 3
"""So many looks without a beat, and one's own earlier process is taken for dead."""


@dataclass(slots=True)
class _Seen:
    """What was seen of a lease. looks: since it is this process's; still: since its beat moved."""

    owner: str
    boot: str
    beat: int
    looks: int = 0
    still: int = 0


class Claims:
    """One collector's rules: what it makes of the leases at each look. Pure; the looks are RENEW_S apart.

    boot: of its process. sites: for which it was started. only: take no others.
    """

    def __init__(self, name: str, boot: str, sites: Iterable[str], *, only: bool = False) -> None:
        self.name = name
        self.boot = boot
        self.sites = frozenset(sites)
        self._only = only
        self._seen: dict[str, _Seen] = {}
        self._served: set[str] = set()

    def look(self, leases: Iterable[Lease]) -> list[Lease]:
        """All leases as they are -> those to write, each with a fresh beat: the sites served from now on.

        ConfigError when another living collector has this one's name.
        """
        found = {one.site: one for one in leases}
        self._seen = {site: self._note(one) for site, one in found.items()}
        taken: list[Lease] = []
        for site in sorted(self.sites | self._served | found.keys()):
            old = found.get(site) or Lease(site=site)
            if self._takes(old):
                taken.append(
                    Lease(site=site, owner=self.name, boot=self.boot, beat=old.beat + 1, home=self._home(site))
                )
        self._served = {one.site for one in taken}
        return taken

    def waits(self) -> bool:
        """Whether a lease bears this name by another process, of which it is not known yet whether it lives."""
        return any(
            one.owner == self.name and one.boot != self.boot and one.still < TWIN_LOOKS for one in self._seen.values()
        )

    def _home(self, site: str) -> bool:
        return site in self.sites

    def _note(self, lease: Lease) -> _Seen:
        seen = self._seen.get(lease.site)
        if seen is None or (seen.owner, seen.boot) != (lease.owner, lease.boot):
            return _Seen(lease.owner, lease.boot, lease.beat)
        seen.looks += 1
        seen.still = seen.still + 1 if seen.beat == lease.beat else 0
        seen.beat = lease.beat
        return seen

    def _takes(self, lease: Lease) -> bool:
        seen = self._seen.get(lease.site)
        if seen is None or (lease.owner, lease.boot) == (self.name, self.boot):
            return True
        home = self._home(lease.site)
        if lease.owner == self.name:
            if seen.looks and not seen.still:
                raise ConfigError(
                    "is the name of another collector that runs", subject=self.name, remedy="Give each its own --name"
                )
            return seen.still >= TWIN_LOOKS and (home or not self._only)
        if home:
            return not lease.owner or seen.still >= LOOKS or (not lease.home and seen.looks >= LOOKS)
        return not self._only and (not lease.owner or seen.still >= LOOKS)


class Leases:
    """Keeps one collector's leases in the database, in a thread of its own.

    works: whether the collector can serve at all just now; while it cannot, nothing is renewed and others take over.
    """

    def __init__(
        self, claims: Claims, store: Store, clock: Clock, errors: Counter[str], works: Callable[[], bool]
    ) -> None:
        self._claims = claims
        self._store = store
        self._clock = clock
        self._errors = errors
        self._works = works
        self._held: tuple[frozenset[str], float] = (frozenset(), 0.0)  # sites, until when
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self.error: ConfigError | None = None
        """Why no leases are kept any more, for good."""

    def enter(self) -> None:
        """The first look, before anything is served; repeated while an earlier process of this name may still live.

        ConfigError when it does, StoreError when the database fails.
        """
        self.look()
        while self._claims.waits() and not self._stop.wait(RENEW_S):
            self.look()

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and free the sites, so that others take them at once."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(20)
        self._held = (frozenset(), 0.0)
        mine = col(Lease.owner) == self._claims.name, col(Lease.boot) == self._claims.boot
        try:
            with self._store.write() as session:
                session.exec(update(Lease).where(*mine).values(owner="", boot="", home=False))
        except StoreError as error:
            self._count(error)

    def held(self, now: float) -> frozenset[str]:
        """The sites that this collector may serve at this monotonic time."""
        sites, until = self._held
        return sites if now < until else frozenset()

    def look(self) -> None:
        """Look at all leases, renew and take. ConfigError, StoreError."""
        begun = self._clock.monotonic()
        with self._store.write() as session:
            if self._store.engine.dialect.name == "postgresql":  # one look at a time; SQLite sees to that itself
                session.connection().exec_driver_sql("LOCK TABLE lease IN EXCLUSIVE MODE")
            leases = session.exec(select(Lease)).all()
            taken = self._claims.look(leases)
            for one in taken:
                session.merge(one)
        self._held = (frozenset(one.site for one in taken), begun + LEASE_S)

    def _run(self) -> None:
        while not self._stop.wait(RENEW_S):
            if not self._works():
                continue
            try:
                self.look()
            except StoreError as error:
                self._count(error)
            except ConfigError as error:
                self._count(error)
                self._held = (frozenset(), 0.0)
                self.error = error
                return

    def _count(self, error: ConfigError | StoreError) -> None:
        self._errors[error.code] += 1
        log.error("%s", error)
