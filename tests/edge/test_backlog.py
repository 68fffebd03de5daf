"""Backlog: another head values what waits, by the embeddings that were kept; images and what is on its way are left."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.backlog import Backlog, embedding_of, encode_embedding
from edge.infer import Facts
from edge.spool import Spool
from edge.strategies import Judge
from shared.files import sha256_hex
from shared.litert import Prediction
from shared.policy import TriageSettings
from shared.transfer import Offer
from tests.fakes.clock import FakeClock
from tests.fakes.hub import CLASSES
from tests.fakes.listener import wait_until
from tests.fakes.messages import event_of, ident
from tests.fakes.models import mean_backbone, softmax_head

BACKBONE = mean_backbone(16)
SHA = sha256_hex(BACKBONE)
SETTINGS = TriageSettings(strategy="mix", mix={"low_score": 0.5, "novelty": 0.5})


def facts(release: int, beta: float, *, references: bool = True, head: bytes | None = None) -> Facts:
    head = softmax_head(3, beta=beta) if head is None else head
    rows = np.eye(3, dtype=np.float32)[:2] if references else None
    return Facts(release, tuple(CLASSES), SHA, head, rows)


def embedding(number: int) -> np.ndarray:
    return np.random.default_rng(number).uniform(-1, 1, 3).astype(np.float16).astype(np.float32)


def expected(number: int, beta: float, why: str) -> float:
    """By the formulas, on what the event carries."""
    one = embedding(number)
    powers = np.exp(beta * one)
    value = Judge(SETTINGS, CLASSES, np.eye(3, dtype=np.float32)[:2]).value(
        why, Prediction((powers / powers.sum()).astype(np.float32), one)
    )
    assert value is not None
    return value


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, limit=1 << 26, quarantine_limit=0, keep_s=0, clock=FakeClock())


def add(spool: Spool, number: int, **fields: object) -> None:
    whole = {"why": "low_score", "embedding": encode_embedding(embedding(number)), "backbone": SHA, **fields}
    spool.add(*event_of(number, size=50, value=0.9, **whole))


@pytest.fixture
def make_backlog(spool: Spool) -> Iterator[Callable[[], tuple[Backlog, list[Offer], Counter[str]]]]:
    made: list[Backlog] = []

    def make() -> tuple[Backlog, list[Offer], Counter[str]]:
        told: list[Offer] = []
        errors: Counter[str] = Counter()
        made.append(Backlog(spool, told.extend, errors))
        made[-1].start()
        return made[-1], told, errors

    yield make
    for one in made:
        one.stop()


def values(spool: Spool) -> dict[str, float]:
    return {one.id: one.value for one in spool.offers()}


def test_every_event_of_the_backbone_has_the_value_that_the_new_head_gives(spool: Spool, make_backlog) -> None:  # type: ignore[no-untyped-def]
    for number in range(40):
        add(spool, number, why="novelty" if number % 4 == 0 else "low_score")
    backlog, told, errors = make_backlog()
    backlog.value(facts(2, 3.0), SETTINGS)
    wait_until(lambda: len(told) == 40, "all to be valued")
    for number in range(40):
        why = "novelty" if number % 4 == 0 else "low_score"
        assert values(spool)[ident(number)] == pytest.approx(expected(number, 3.0, why), abs=1e-5)
    assert {one.id: one.value for one in told} == values(spool)
    assert spool.event(ident(3)).value == values(spool)[ident(3)], "also what is told to the hub"  # type: ignore[union-attr]
    assert errors == {}


def test_what_cannot_be_valued_keeps_its_value(spool: Spool, make_backlog) -> None:  # type: ignore[no-untyped-def]
    add(spool, 1, backbone="ab" * 32)
    add(spool, 2, backbone=None)
    add(spool, 3, why="audit")
    add(spool, 4, why="another rule")
    add(spool, 5, embedding=None)
    add(spool, 6, embedding="!!")
    add(spool, 7, embedding=encode_embedding(np.ones(5, np.float32)))
    add(spool, 8)
    backlog, told, _ = make_backlog()
    backlog.value(facts(2, 3.0), SETTINGS)
    wait_until(lambda: told, "the one that can be valued")
    assert [one.id for one in told] == [ident(8)]
    assert {one for one, value in values(spool).items() if value != 0.9} == {ident(8)}


def test_the_last_model_counts_and_a_start_values_anew(spool: Spool, make_backlog, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for number in range(30):
        add(spool, number)
    backlog, told, _ = make_backlog()
    backlog.value(facts(2, 3.0), SETTINGS)
    backlog.value(facts(3, 0.5), SETTINGS)
    wait_until(lambda: told and values(spool)[ident(29)] == pytest.approx(expected(29, 0.5, "low_score")), "the last")
    again = Spool(tmp_path, limit=1 << 26, quarantine_limit=0, keep_s=0, clock=FakeClock())
    assert set(values(again).values()) == {0.9}, "nothing was written"
    heard: list[Offer] = []
    other = Backlog(again, heard.extend, Counter())
    other.start()
    other.value(facts(3, 0.5), SETTINGS)
    wait_until(lambda: len(heard) == 30, "all to be valued")
    other.stop()
    assert values(again) == pytest.approx(values(spool))


def test_a_head_that_does_not_load_is_counted_and_changes_nothing(spool: Spool, make_backlog) -> None:  # type: ignore[no-untyped-def]
    add(spool, 1)
    backlog, told, errors = make_backlog()
    backlog.value(facts(2, 1.0, head=b"no model"), SETTINGS)
    wait_until(lambda: errors == {"part": 1}, "the error")
    assert (told, values(spool)) == ([], {ident(1): 0.9})
    backlog.value(facts(3, 1.0), SETTINGS)
    wait_until(lambda: told, "the next head")


def test_the_least_valuable_by_the_new_head_goes_first(tmp_path: Path, make_backlog, spool: Spool) -> None:  # type: ignore[no-untyped-def]
    for number in range(5):
        add(spool, number)
    spool.revalue({ident(number): number / 10 for number in range(5)} | {ident(99): 0.0})
    small = spool.state().bytes
    assert values(spool) == {ident(n): n / 10 for n in range(5)}
    spool._limit = small
    spool.add(*event_of(7, size=50, value=0.35))
    assert ident(0) not in values(spool)
    spool.revalue({ident(4): 0.05})
    spool.add(*event_of(8, size=50, value=0.35))
    assert ident(4) not in values(spool)
    assert {ident(1), ident(2), ident(3)} < values(spool).keys()


def test_embeddings_there_and_back() -> None:
    event, _ = event_of(1, embedding=encode_embedding(np.array([1.5, -2, 1e9], np.float32)))
    back = embedding_of(event)
    assert back is not None
    assert back.tolist() == [1.5, -2, 65504]
