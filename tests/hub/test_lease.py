"""Leases: the table of the module, cell by cell; what one collector may believe; and any history of several."""

from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from math import inf
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import delete, select

from hub.lease import LEASE_S, LOOKS, RENEW_S, TWIN_LOOKS, Claims, Leases
from hub.store import open_store
from hub.tables import Lease
from shared.errors import ConfigError, StoreError
from tests.fakes.clock import FakeClock
from tests.hub.making import settings_in


def claims(name="x", boot="b1", sites=("a",), **more):
    return Claims(name, boot, sites, **more)


def lease(owner="y", beat=1, *, site="a", boot="b9", home=True):
    return Lease(site=site, owner=owner, boot=boot, beat=beat, home=home)


def taken(claims, *leases):
    return [one.site for one in claims.look(leases)]


def looks_until_taken(claims, make, most=30):
    """How many looks at the leases that `make(number of the look)` gives, before site a is taken."""
    return next((n for n in range(most) if "a" in taken(claims, make(n))), None)


def beating(**more):
    return lambda n: lease(beat=n, **more)


def still(**more):
    return lambda _: lease(**more)


# -- the table


def test_a_site_without_a_lease_is_taken_by_whom_it_was_given_to():
    [one] = claims().look([])
    assert (one.site, one.owner, one.boot, one.beat, one.home) == ("a", "x", "b1", 1, True)
    assert taken(claims(sites=("a", "b"))) == ["a", "b"]


def test_a_free_lease_is_taken_at_once_but_by_one_that_takes_no_others():
    free = lease("", boot="", home=False)
    assert taken(claims(), free) == ["a"]
    assert taken(claims(only=True), free) == ["a"]
    [one] = claims(sites=("b",), only=False).look([free, lease(site="b")])
    assert (one.site, one.owner, one.home) == ("a", "x", False)
    assert taken(claims(sites=("b",), only=True), free) == ["b"]


@pytest.mark.parametrize("sites", [("a",), ("b",)])
def test_its_own_lease_is_renewed_with_another_beat(sites):
    one = claims(sites=sites)
    [renewed] = [new for new in one.look([lease("x", 41, boot="b1")]) if new.site == "a"]
    assert (renewed.owner, renewed.boot, renewed.beat, renewed.home) == ("x", "b1", 42, sites == ("a",))


@pytest.mark.parametrize("sites", [("a",), ("b",)])
@pytest.mark.parametrize("only", [False, True])
def test_nobody_takes_from_a_living_one_that_was_started_for_the_site(sites, only):
    assert looks_until_taken(claims(sites=sites, only=only), beating()) is None


@pytest.mark.parametrize(
    ("sites", "only", "at"), [(("a",), False, LOOKS), (("a",), True, LOOKS), (("b",), False, None)]
)
def test_a_living_guest_gives_back_to_none_but_the_one_started_for_the_site(sites, only, at):
    assert looks_until_taken(claims(sites=sites, only=only), beating(home=False)) == at


@pytest.mark.parametrize("home", [False, True])
@pytest.mark.parametrize(
    ("sites", "only", "at"),
    [(("a",), False, LOOKS), (("a",), True, LOOKS), (("b",), False, LOOKS), (("b",), True, None)],
)
def test_what_stands_still_is_taken_after_so_many_looks(sites, only, at, home):
    assert looks_until_taken(claims(sites=sites, only=only), still(home=home)) == at


def test_one_beat_and_the_counting_starts_again():
    one = claims(sites=("b",))
    assert looks_until_taken(one, lambda n: lease(beat=int(n >= LOOKS - 1))) == 2 * LOOKS - 1


def test_another_owner_or_process_and_the_counting_starts_again():
    for other in (lease("z"), lease(boot="b7")):
        assert (
            looks_until_taken(claims(sites=("b",)), lambda n, o=other: o if n >= LOOKS - 1 else lease())
            == 2 * LOOKS - 1
        )


def test_one_that_guests_change_shows_patience_with_each():
    one = claims()
    assert looks_until_taken(one, lambda n: lease("yz"[n >= LOOKS - 1], n, home=False)) == 2 * LOOKS - 1


@pytest.mark.parametrize("sites", [("a",), ("b",)])
def test_its_own_earlier_process_is_taken_for_dead_sooner(sites):
    one = claims(sites=sites)
    assert looks_until_taken(one, still(owner="x", boot="b0")) == TWIN_LOOKS < LOOKS
    assert not one.waits()


def test_one_that_takes_no_others_leaves_what_its_earlier_process_had_taken():
    one = claims(sites=("b",), only=True)
    assert looks_until_taken(one, still(owner="x", boot="b0")) is None
    assert not one.waits()


@pytest.mark.parametrize("looks", [1, TWIN_LOOKS - 1])
def test_a_living_collector_of_the_same_name_ends_this_one(looks):
    one = claims()
    for _ in range(looks):
        assert taken(one, lease("x", 5, boot="b0")) == []
        assert one.waits()
    with pytest.raises(ConfigError, match="x: is the name of another collector that runs"):
        one.look([lease("x", 6, boot="b0")])


def test_a_twin_that_begins_later_ends_the_one_that_was_frozen_meanwhile():
    old = claims()
    old.look([])
    assert taken(old, lease("x", 7, boot="b2")) == []
    with pytest.raises(ConfigError):
        old.look([lease("x", 8, boot="b2")])


@pytest.mark.parametrize("home", [False, True])
def test_what_is_lost_is_not_served(home):
    one = claims(sites=("a",) if home else ("b",))
    assert "a" in taken(one, lease("", boot=""))
    assert "a" not in taken(one, lease("y", 3))


@pytest.mark.parametrize("only", [False, True])
def test_leases_that_a_restore_swept_away_are_made_again_by_those_who_served(only):
    one = claims(sites=("b",), only=only)
    assert taken(one, lease("x", boot="b1")) == ["a", "b"]
    assert taken(one) == ["a", "b"]
    assert taken(claims(sites=("b",))) == ["b"]


# -- the database, and what may be believed of it


@pytest.fixture
def keeper(store, clock):
    made = []

    def make(one, works=lambda: True):
        made.append(Leases(one, store, clock, Counter(), works))
        return made[-1]

    return make


def rows(store):
    with store.read() as session:
        return {one.site: one for one in session.exec(select(Lease))}


def test_a_lease_is_held_no_longer_than_its_time_whatever_the_wall_clock_does(keeper, clock):
    leases = keeper(claims())
    leases.look()
    clock.advance(LEASE_S - 0.001)
    assert leases.held(clock.monotonic()) == {"a"}
    clock.set_utc(clock.utc() - timedelta(days=1))
    assert leases.held(clock.monotonic()) == {"a"}
    clock.advance(0.001)
    assert leases.held(clock.monotonic()) == frozenset()
    leases.look()
    assert leases.held(clock.monotonic()) == {"a"}


def test_the_time_counts_from_before_the_wait_for_the_database(keeper, clock, store, monkeypatch):
    really = store.write

    @contextmanager
    def slow():
        clock.advance(4.0)
        with really() as session:
            yield session

    leases = keeper(claims())
    monkeypatch.setattr(store, "write", slow)
    leases.look()
    clock.advance(LEASE_S - 4.0)
    assert leases.held(clock.monotonic()) == frozenset()


def test_a_database_that_fails_gives_nothing_and_takes_nothing(keeper, clock, store):
    leases = keeper(claims())
    leases.look()
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE UPDATE ON lease BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    clock.advance(RENEW_S)
    with pytest.raises(StoreError):
        leases.look()
    assert leases.held(clock.monotonic()) == {"a"}
    clock.advance(LEASE_S - RENEW_S)
    assert leases.held(clock.monotonic()) == frozenset()


def test_who_ends_in_good_order_frees_his_own_and_no_others(keeper, clock, store):
    mine, other = keeper(claims()), keeper(claims("y", sites=("b",)))
    mine.look()
    other.look()
    mine.stop()
    assert mine.held(clock.monotonic()) == frozenset()
    assert (rows(store)["a"].owner, rows(store)["b"].owner) == ("", "y")
    other.look()
    assert other.held(clock.monotonic()) == {"a", "b"}
    assert rows(store)["a"].home is False
    keeper(claims()).stop()  # another process of the first one's name
    assert rows(store)["a"].owner == "y"


def test_the_thread_renews_while_the_collector_works(store, monkeypatch):
    from shared.clock import SystemClock
    from tests.fakes.listener import wait_until

    monkeypatch.setattr("hub.lease.RENEW_S", 0.02)
    works = [True]
    leases = Leases(claims(), store, SystemClock(), Counter(), lambda: works[0])
    leases.enter()
    leases.start()
    try:
        wait_until(lambda: rows(store)["a"].beat > 5, "beats")
        works[0] = False
        before = [rows(store)["a"].beat]

        def stands():
            before.append(rows(store)["a"].beat)
            return len(before) > 20 and before[-1] == before[-15]

        wait_until(stands, "no more beats")
        works[0] = True
        wait_until(lambda: rows(store)["a"].beat > before[-1] + 5, "beats again")
    finally:
        leases.stop()
    assert rows(store)["a"].owner == ""


def test_a_twin_that_lives_is_told_and_keeps_what_it_has(store, monkeypatch):
    from shared.clock import SystemClock
    from tests.fakes.listener import wait_until

    monkeypatch.setattr("hub.lease.RENEW_S", 0.05)
    first, errors = Leases(claims(), store, SystemClock(), Counter(), lambda: True), Counter()
    first.enter()
    first.start()
    second = Leases(claims(boot="b2"), store, SystemClock(), errors, lambda: True)
    try:
        with pytest.raises(ConfigError):
            second.enter()
        second._claims = claims(boot="b2")  # and one that finds out only while it runs
        second.start()
        wait_until(lambda: second.error is not None, "the error")
        assert (first.error, errors["config"], second.held(0)) == (None, 1, frozenset())
        assert (rows(store)["a"].owner, rows(store)["a"].boot) == ("x", "b1")
    finally:
        second.stop()
        first.stop()


# -- any history


class World:
    """Collectors with leases on one real database, under a clock of their own; says at once when a promise breaks."""

    SITES = ("a", "b", "c")
    EPS = 1e-6

    def __init__(self, store, only):
        self.store, self.clock = store, FakeClock()
        with store.write() as session:
            session.exec(delete(Lease))
        self.boots = 0
        self.owners = {}  # site -> (owner, boot)
        self.changed = {}  # site -> when
        self.since = {}  # site -> since when nobody serves it
        self.all = [
            SimpleNamespace(name=name, sites=sites, only=one, leases=None)
            for name, sites, one in zip("xyz", (("a",), ("b",), ("a", "c")), only, strict=True)
        ]

    @property
    def now(self):
        return self.clock.monotonic()

    def start(self, one):
        if one.leases is None:
            self.boots += 1
            made = Claims(one.name, f"boot-{self.boots}", one.sites, only=one.only)
            one.leases = Leases(made, self.store, self.clock, Counter(), lambda: True)
            one.boot, one.frozen, one.cut = f"boot-{self.boots}", False, False
            one.up, one.next, one.looked = self.now, self.now, -inf  # able since, next and last look

    def kill(self, one):
        one.leases = None

    def stop(self, one):
        if one.leases is not None and not one.frozen:
            one.leases.stop()
            one.leases = None

    def freeze(self, one):
        one.frozen = True

    def thaw(self, one):
        if one.frozen:
            one.frozen, one.up = False, self.now

    def cut(self, one):
        one.cut = True

    def mend(self, one):
        if one.cut:
            one.cut, one.up = False, self.now

    def able(self, one):
        return one.leases is not None and not one.frozen and not one.cut

    def run(self, seconds):
        """Let time go by; each collector that can looks RENEW_S after its last look."""
        end = self.now + seconds
        while True:
            able = [one for one in self.all if self.able(one)]
            due = min([max(one.next, self.now) for one in able], default=inf)
            # Also in between: what a lease no longer allows shows at its end.
            step = min(due, end, self.now + RENEW_S / 4)
            self.clock.advance(step - self.now)
            self.check()
            if due <= step:
                one = next(one for one in able if one.next <= self.now)
                one.leases.look()
                one.looked, one.next = self.now, self.now + RENEW_S
                self.note()
                self.check()
            elif step >= end:
                return

    def note(self):
        for site, row in rows(self.store).items():
            if self.owners.get(site) != (row.owner, row.boot):
                self.owners[site], self.changed[site] = (row.owner, row.boot), self.now

    def serves(self, one, site):
        return one.leases is not None and not one.frozen and site in one.leases.held(self.now)

    def check(self):
        self.note()
        for site in self.SITES:
            serving = [one for one in self.all if self.serves(one, site)]
            for one in serving:
                if self.owners[site] != (one.name, one.boot):
                    owner = next(other for other in self.all if other.name == self.owners[site][0])
                    # Only a guest who has not looked since the site went back may still think that it is his.
                    assert one.looked <= self.changed[site], f"{one.name} serves {site} of {self.owners[site]}"
                    assert site not in one.sites, f"{one.name} lost {site}, for which it was started"
                    assert site in owner.sites, f"{owner.name} took {site} from a living one"
            if serving:
                self.since.pop(site, None)
                continue
            since = self.since.setdefault(site, self.now)
            for one in self.all:
                if self.able(one) and (site in one.sites or (not one.only and site in self.owners)):
                    waited = self.now - max(since, one.up)
                    assert waited <= LEASE_S + RENEW_S + self.EPS, f"{site} waits {waited} s with {one.name} there"


ACTIONS = ("start", "kill", "stop", "freeze", "thaw", "cut", "mend")
STEPS = st.lists(st.tuples(st.integers(0, int(6 * LEASE_S)), st.sampled_from(ACTIONS), st.integers(0, 2)), max_size=25)


@pytest.fixture(scope="module")
def fast_store(tmp_path_factory):
    made = open_store(settings_in(tmp_path_factory.mktemp("leases")))
    with made.engine.connect() as connection:
        connection.connection.execute("PRAGMA synchronous=OFF")
    yield made
    made.close()


@settings(max_examples=60)
@given(steps=STEPS, only=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_whatever_happens_each_site_has_one_owner_and_soon_has_one(fast_store, steps, only):
    world = World(fast_store, only)
    for one in world.all:
        world.start(one)
    for quarters, action, number in steps:
        world.run(quarters / 4)
        getattr(world, action)(world.all[number])
        world.note()
    for one in world.all:
        world.thaw(one)
        world.mend(one)
        world.start(one)
    world.run(3 * LEASE_S)
    x, y, z = world.all
    assert world.serves(y, "b")
    assert world.serves(z, "c")
    assert [world.serves(one, "a") for one in (x, z)].count(True) == 1
    before = dict(world.changed)
    world.run(LEASE_S)
    assert world.changed == before, "nothing goes to and fro"
