"""Infer: the swap happens at `turn`, between two frames, and only there."""

import threading

import numpy as np

from edge.infer import Engine, Facts, Running
from shared.litert import Model, Part
from shared.preprocess import Preprocess
from tests.fakes.hub import CLASSES, parts
from tests.fakes.listener import wait_until


def running(release: int, beta: float = 1.0) -> Running:
    made = parts(beta=beta)
    model = Model(Part(made.backbone, name="b"), Part(made.head, name="h"), CLASSES, Preprocess(size=made.size))
    return Running(Facts(release, model.classes), model)


def test_nothing_runs_before_the_first_model() -> None:
    engine = Engine()
    assert engine.turn() is engine.running is None
    assert (engine.infer_ms, engine.inferred) == (0.0, 0)


def test_the_swap_waits_for_the_boundary_and_so_does_who_offers() -> None:
    engine, old, new = Engine(), running(1), running(2, 8.0)
    threading.Thread(target=engine.offer, args=(old, 10)).start()
    wait_until(lambda: engine.turn() is old, "the first model")
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[..., 0] = 255
    before = engine.predict(old, pixels)
    answers: list[bool] = []
    other = threading.Thread(target=lambda: answers.append(engine.offer(new, 10)))
    other.start()
    wait_until(lambda: engine._next is new, "the offer")
    assert engine.running is old
    assert np.array_equal(engine.predict(old, pixels).probabilities, before.probabilities), (
        "within a frame: the old one"
    )
    assert answers == []
    assert engine.turn() is new
    other.join(10)
    assert answers == [True]
    assert engine.running is engine.turn() is new
    assert engine.predict(new, pixels).score > before.score
    assert engine.inferred == 3
    assert engine.infer_ms > 0


def test_an_offer_that_nobody_takes_is_withdrawn() -> None:
    """It was reported as failed: it must not come to run later."""
    engine, late = Engine(), running(2)
    assert not engine.offer(late, 0.01)
    assert engine.turn() is None
    done = threading.Thread(target=engine.offer, args=(running(3), 10))
    done.start()
    wait_until(lambda: engine.turn() is not None, "the next offer")
    done.join(10)
    assert engine.running is not None
    assert engine.running.release == 3


def test_offers_and_turns_in_a_race() -> None:
    """Short timeouts against a busy loop: what was taken was said to be taken, and the model is never lost."""
    engine = Engine()
    one = running(1)
    end = threading.Event()

    def named(release: int) -> Running:
        return Running(Facts(release, one.model.classes), one.model)

    seen: list[int] = []

    def loop() -> None:
        had = False
        while not end.is_set():
            now = engine.turn()
            assert now is not None or not had
            had = had or now is not None
            if now and (not seen or seen[-1] != now.release):
                seen.append(now.release)

    frames = threading.Thread(target=loop)
    frames.start()
    said = [n for n in range(1, 400) if engine.offer(named(n), 0.00001)]
    said += [400] if engine.offer(named(400), 10) else []
    wait_until(lambda: seen and seen[-1] == 400, "the last one")
    end.set()
    frames.join()
    assert set(seen) <= set(said), "none runs that was said to have failed"


def test_others_learn_when_the_loop_has_no_frame() -> None:
    """Between `predict` and `turn` it has one."""
    engine, one = Engine(), running(1)
    told: list[str] = []
    engine.spare.begin = lambda: told.append("begin")  # type: ignore[method-assign]
    engine.spare.end = lambda: told.append("end")  # type: ignore[method-assign]
    engine.turn()
    engine.predict(one, np.zeros((16, 16, 3), np.uint8))
    assert told == ["end", "begin"]
    engine.turn()
    assert told == ["end", "begin", "end"]
