"""What a run's row tells of its training: how far it is, how well it does, and how long it may still take."""

import pytest

from hub import underway
from hub.train import Inside, Progress
from hub.underway import Story


class Watch:
    """A lease that only remembers what is written, and the time."""

    def __init__(self):
        self.now, self.rows = 100.0, []

    def monotonic(self):
        return self.now

    def check(self):
        pass

    def write(self, **fields):
        self.rows.append(fields)


@pytest.fixture
def watch(monkeypatch):
    made = Watch()
    monkeypatch.setattr(underway.time, "monotonic", made.monotonic)
    return made


def test_steps_that_an_early_stop_leaves_out_took_no_time(watch):
    story = Story(watch)
    for step in range(1, 11):
        watch.now += 8  # five folds side by side
        story.told(Progress(step, 200, 0.5, 0.9))
    assert watch.rows[-1]["fit"]["eta_s"] == 8 * 190
    for step in range(101, 106):  # it stopped, and the best epoch was the fifth
        watch.now += 2
        story.told(Progress(step, 105, 0.4, 0.9))
        assert watch.rows[-1]["fit"]["eta_s"] == 2 * (105 - step)
    assert [one["step"] for one in watch.rows[-6:-4]] == ["training (10 of 200)", "training (101 of 105)"]


def test_a_training_that_is_resumed_counts_from_where_it_begins(watch):
    story = Story(watch)
    watch.now += 4
    story.told(Progress(31, 40, 0.5, 0.9))
    assert watch.rows[-1]["fit"]["eta_s"] == 4 * 9


def test_loss_and_time_are_told_within_the_first_epoch(watch):
    story = Story(watch)
    for batch in range(1, 11):
        watch.now += 3
        story.inside(Inside(0, 4, batch / 10, 0.7))
        assert watch.rows[-1]["fit"] == {"loss": 0.7, "eta_s": pytest.approx(120 - 3 * batch)}
    assert watch.rows[3]["step"] == "training (0 of 4)"
    assert 0.5 < watch.rows[0]["progress"] < watch.rows[5]["progress"] < 0.5 + 0.2 / 4
    story.told(Progress(1, 4, 0.6, 0.8))
    watch.now += 3
    story.inside(Inside(1, 4, 0.1, 0.2))
    last = watch.rows[-1]
    assert last["fit"] == {"loss": 0.6, "metric": 0.8, "eta_s": pytest.approx(33 / 1.1 * 2.9, abs=0.06)}
    assert last["curve"] == [0.6], "the curve is of what was held out"


def test_the_row_is_written_twice_a_second_at_most(watch):
    story = Story(watch)
    for batch in range(1, 101):
        watch.now += 0.01
        story.inside(Inside(0, 4, batch / 100, 0.7))
    assert len(watch.rows) == 2
