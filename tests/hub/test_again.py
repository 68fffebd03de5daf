"""What is asked again, how often, about which image; and what operators' agreement is worth."""

import pytest
from sqlmodel import select

from hub.again import Agreement, agreement, due, mixed, pairs
from hub.label import Desk
from hub.settings import LabelSettings
from hub.tables import Label, Run, Suspect
from tests.hub.making import CLASSES, NOW, add_image, add_vector, get_image


def desk_with(store, clock, **settings):
    wanted = LabelSettings(**{"repeat": 0, "second_look": 0, **settings})
    return Desk(store, "cells", CLASSES, clock, settings=lambda: wanted)


@pytest.fixture
def labelled(store, clock):
    """Forty images from the field, labelled good."""
    desk = desk_with(store, clock)
    ids = [add_image(store) for _ in range(40)]
    for one in ids:
        desk.decide(one, "good", operator="Mira")
    return ids


def doubt(store, *ids, label="good", project="cells"):
    with store.write() as session:
        run = Run(project=project, state="done", created_at=NOW)
        session.add(run)
        session.flush()
        for number, one in enumerate(ids):
            session.add(
                Suspect(run_id=run.id, image_id=one, label=label, guess="defect", confidence=0.01 * (number + 1))
            )


def asked(store, **settings):
    with store.read() as session:
        return due(session, "cells", LabelSettings(**{"repeat": 0, "second_look": 0, **settings}))


def test_nothing_is_owed_while_a_share_is_less_than_one(store, labelled):
    assert asked(store) == {}
    assert asked(store, repeat=0.02) == {}
    assert len(asked(store, repeat=0.05)) == 2


def test_repeats_are_of_images_labelled_once_and_not_lately(store, labelled):
    found = asked(store, repeat=0.5)
    assert set(found.values()) == {"repeat"}
    assert set(found) <= set(labelled[:20])
    assert found == asked(store, repeat=0.5), "the same question for whoever asks"


def test_a_repeat_is_asked_once_and_its_answer_holds(store, clock, labelled):
    desk = desk_with(store, clock, repeat=0.03)
    [question] = desk.questions(1)
    assert question.ask == "repeat"
    assert question.image.id in labelled[:20]
    desk.decide(question.image.id, "defect", operator="Omar", ask="repeat")
    assert get_image(store, question.image.id).label == "defect"
    assert desk.questions(1) == []
    desk.undo(operator="Omar")
    assert get_image(store, question.image.id).label == "good"
    assert [one.ask for one in desk.questions(1)] == ["repeat"]


def test_second_looks_are_at_what_the_newest_run_doubts_the_most_doubtful_first(store, clock, labelled):
    doubt(store, *labelled[:5])
    doubt(store, labelled[30], labelled[7], labelled[9])
    assert list(asked(store, second_look=0.05)) == [labelled[30], labelled[7]]
    desk = desk_with(store, clock, second_look=0.05)
    desk.decide(labelled[7], "defect", operator="Omar")  # by himself: the run's doubt was about another label
    assert list(asked(store, second_look=0.05)) == [labelled[30], labelled[9]]


def test_a_second_look_settles_the_doubt_whatever_is_said(store, clock, labelled):
    doubt(store, labelled[3])
    desk = desk_with(store, clock, second_look=0.05)
    [question] = desk.questions(2)
    assert (question.image.id, question.ask) == (labelled[3], "second")
    desk.decide(labelled[3], "good", operator="Omar", ask="second")
    doubt(store, labelled[3])
    assert asked(store, second_look=0.5) == {}


def test_they_come_among_the_new_ones(store, clock, labelled):
    fresh = [add_image(store, score=0.5) for _ in range(10)]
    for number, one in enumerate(fresh):
        add_vector(store, one, [1.0, float(number)])
    shown = desk_with(store, clock, repeat=0.05).questions(12)
    assert sorted(one.image.id for one in shown if not one.ask) == fresh
    places = [number for number, one in enumerate(shown) if one.ask]
    assert len(places) == 2
    assert 0 < places[0] < places[1] < 11


def test_spread_evenly():
    assert mixed([1, 2, 3, 4], [9]) == [1, 2, 9, 3, 4]
    assert mixed([], [9, 8]) == [9, 8]
    assert mixed([1, 2], []) == [1, 2]


def test_kappa_by_hand():
    """Cohen's own measure: .8 agreed where .52 would by chance."""
    same = [("a", "a")] * 5 + [("b", "b")] * 3 + [("a", "b"), ("b", "a")]
    assert agreement(same) == Agreement(10, 0.8, pytest.approx((0.8 - 0.52) / 0.48))
    assert agreement([]) is None
    assert agreement([("a", "a")] * 3) == Agreement(3, 1.0, None)
    assert agreement([("a", "b"), ("b", "a")]).kappa == pytest.approx(-1)


def test_kappa_as_scikit_learn():
    from sklearn.metrics import cohen_kappa_score

    pairs_of = [("a", "a"), ("a", "b"), ("c", "c"), ("b", "b"), ("b", "c"), ("c", "c"), ("a", "a")]
    assert agreement(pairs_of).kappa == pytest.approx(cohen_kappa_score(*zip(*pairs_of, strict=True)))


def test_pairs_are_of_standing_labels_by_the_same_or_another_operator(store, clock, labelled):
    desk = desk_with(store, clock)
    desk.decide(labelled[0], "good", operator="Mira", ask="repeat")
    desk.decide(labelled[1], "defect", operator="Omar", ask="repeat")
    desk.skip(labelled[2], operator="Omar", ask="repeat")
    desk.decide(labelled[3], "defect", operator="Omar")
    desk.decide(labelled[4], "defect", operator="Omar", ask="repeat")
    desk.undo(operator="Omar")
    with store.read() as session:
        assert pairs(session, "cells", "repeat") == [("good", "good"), ("good", "defect")]
        assert pairs(session, "cells", "repeat", own=True) == [("good", "good")]
        assert pairs(session, "cells", "repeat", own=False) == [("good", "defect")]
        assert pairs(session, "cells", "second") == []
        assert len(session.exec(select(Label)).all()) == 46
