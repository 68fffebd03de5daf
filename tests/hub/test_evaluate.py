"""Numbers that decide what a line runs: each is checked against another way to reach it."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from hub import evaluate as module
from hub.evaluate import Comparison, Evaluation, compare, evaluate, mcnemar
from shared.errors import LabelError, ModelError


def two(p):
    """P(class 1) -> [n, 2]."""
    p = np.asarray(p, dtype=np.float64)
    return np.stack([1 - p, p], axis=1)


def world(n, skill, seed=0, share=0.3):
    """Labels, and the probabilities of a model whose AUC is Phi(skill / sqrt 2)."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    return two(1 / (1 + np.exp(-(rng.normal(size=n) + skill * (y - 0.5))))), y


@given(
    data=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=60).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_auc_is_that_of_sklearn_with_many_ties(data):
    y, steps = np.array(data).T
    p = two(steps / 5)
    assert evaluate(p, y, bootstrap=2).auc.value == pytest.approx(metrics.roc_auc_score(y, p[:, 1]))


def test_auc_of_a_resample_is_that_of_the_images_drawn():
    p, y = world(60, 1.0)
    p = two(np.round(p[:, 1], 1))
    (counts,) = module._resamples(y, 20, seed=3)
    for row, auc in zip(counts, module._auc(p, y, counts), strict=True):
        drawn = np.repeat(np.arange(60), row.astype(int))
        assert np.bincount(y[drawn]).tolist() == np.bincount(y).tolist()  # stratified
        assert auc == pytest.approx(metrics.roc_auc_score(y[drawn], p[drawn, 1]))


def test_resamples_cut_into_blocks_are_all_there(monkeypatch):
    _, y = world(50, 1.0)
    monkeypatch.setattr(module, "_CELLS", 150)
    blocks = list(module._resamples(y, 10, seed=1))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    assert np.concatenate(blocks).sum(axis=1).tolist() == [50.0] * 10
    assert len(np.unique(np.concatenate(blocks), axis=0)) == 10


def test_perfect_inverted_and_constant_models():
    y = np.array([0, 0, 0, 1, 1])
    perfect = evaluate(two([0.1, 0.2, 0.3, 0.7, 0.9]), y)
    assert (perfect.auc.value, perfect.auc.low, perfect.auc.high) == (1.0, 1.0, 1.0)
    assert (perfect.accuracy.value, perfect.balanced_accuracy.value, perfect.f1) == (1.0, 1.0, 1.0)
    inverted = evaluate(two([0.9, 0.8, 0.7, 0.3, 0.1]), y)
    assert (inverted.auc.value, inverted.accuracy.value, inverted.f1) == (0.0, 0.0, 0.0)
    constant = evaluate(two([0.2] * 5), y)
    assert (constant.auc.value, constant.accuracy.value, constant.balanced_accuracy.value) == (0.5, 0.6, 0.5)


def test_all_numbers_are_those_of_sklearn_for_three_classes():
    rng = np.random.default_rng(4)
    y = rng.choice(3, 200, p=[0.6, 0.3, 0.1])
    p = rng.dirichlet(np.ones(3), 200) * 0.6 + np.eye(3)[y] * 0.4 * rng.random((200, 1))
    p /= p.sum(axis=1, keepdims=True)
    got, predicted = evaluate(p, y), p.argmax(axis=1)
    assert got.n == 200
    assert got.accuracy.value == pytest.approx(metrics.accuracy_score(y, predicted))
    assert got.balanced_accuracy.value == pytest.approx(metrics.balanced_accuracy_score(y, predicted))
    assert got.auc.value == pytest.approx(metrics.roc_auc_score(y, p, multi_class="ovr"))
    assert got.f1 == pytest.approx(metrics.f1_score(y, predicted, average="macro"))
    assert got.confusion == metrics.confusion_matrix(y, predicted).tolist()
    precision, recall, f1, n = metrics.precision_recall_fscore_support(y, predicted)
    assert [c.precision for c in got.classes] == pytest.approx(precision)
    assert [c.recall for c in got.classes] == pytest.approx(recall)
    assert [c.f1 for c in got.classes] == pytest.approx(f1)
    assert [c.n for c in got.classes] == n.tolist()
    for interval in (got.accuracy, got.balanced_accuracy, got.auc):
        assert interval.low < interval.value < interval.high


def test_a_class_that_does_not_occur_is_none_and_not_zero():
    got = evaluate(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]]), np.array([0, 1, 1]))
    assert (got.classes[2].recall, got.classes[2].precision, got.classes[2].f1) == (None, None, None)
    assert got.balanced_accuracy.value == 0.75
    assert got.auc.value == 1.0  # over classes 0 and 1
    assert got.f1 == pytest.approx(2 / 3)


def test_one_class_alone_has_no_auc():
    got = evaluate(two([0.1, 0.6]), np.array([0, 0]))
    assert got.auc is None
    assert got.accuracy.value == 0.5


def test_calibration_error_by_hand():
    # bin (.6, .6667]: 3 images at .65, 1 right; bin (.9333, 1]: 2 images at .95 and 1.0, both right
    p = two([0.65, 0.65, 0.65, 0.95, 1.0])
    y = np.array([1, 0, 0, 1, 1])
    assert evaluate(p, y).ece == pytest.approx((abs(1 - 3 * 0.65) + abs(2 - 1.95)) / 5)


def test_a_confidence_on_the_edge_of_a_bin_belongs_to_the_bin_below():
    got = evaluate(two([0.6, 0.65]), np.array([1, 0])).ece  # .6 is 9/15: not in one bin with .65
    assert got == pytest.approx(((1 - 0.6) + 0.65) / 2)


def test_calibration_error_of_a_calibrated_model_is_small_and_of_a_boaster_is_not():
    rng = np.random.default_rng(0)
    chance = rng.random(20_000)
    y = (rng.random(20_000) < chance).astype(int)
    assert evaluate(two(chance), y, bootstrap=2).ece < 0.02
    assert evaluate(two(np.where(chance > 0.5, 0.999, 0.001)), y, bootstrap=2).ece == pytest.approx(0.249, abs=0.02)


def test_intervals_contain_the_truth_about_as_often_as_they_say():
    big_p, big_y = world(200_000, 1.2, seed=10_000)
    truth = metrics.roc_auc_score(big_y, big_p[:, 1]), (big_p.argmax(1) == big_y).mean()
    hits = np.zeros(2)
    for seed in range(200):
        got = evaluate(*world(250, 1.2, seed=seed), bootstrap=300, seed=seed)
        hits += [i.low <= t <= i.high for i, t in zip((got.auc, got.accuracy), truth, strict=True)]
    assert (hits / 200 > 0.90).all(), hits
    assert (hits / 200 < 0.995).all(), hits


def test_the_same_seed_gives_the_same_and_another_seed_another():
    p, y = world(200, 1.0)
    assert evaluate(p, y) == evaluate(p, y)
    assert evaluate(p, y, seed=1).auc != evaluate(p, y).auc
    assert compare(p, p[::-1], y) == compare(p, p[::-1], y)


def test_float32_is_welcome_and_results_go_through_json():
    p, y = world(100, 1.0)
    one = evaluate(p.astype(np.float32), y.astype(np.int32))
    assert msgspec.json.decode(msgspec.json.encode(one), type=Evaluation) == one
    both = compare(p, p[::-1], y)
    assert msgspec.json.decode(msgspec.json.encode(both), type=Comparison) == both


BROKEN_LABELS = [
    (np.array([0, 2]), "range from 0 to 2 for 2 classes"),
    (np.array([-1, 1]), "range from -1 to 1"),
    (np.array([0, 1, 1]), "must be 2 integers"),
    (np.array([0.0, 1.0]), "must be 2 integers"),
    (np.array([[0], [1]]), "must be 2 integers"),
]


@pytest.mark.parametrize(("labels", "says"), BROKEN_LABELS)
def test_broken_labels_are_refused(labels, says):
    p = two([0.1, 0.9])
    with pytest.raises(LabelError, match=says):
        evaluate(p, labels)
    with pytest.raises(LabelError, match=says):
        compare(p, p, labels)


def test_no_labels_at_all_are_refused():
    with pytest.raises(LabelError, match="there are none"):
        evaluate(np.zeros((0, 2)), np.zeros(0, int))


@pytest.mark.parametrize(
    "p", [[[0.5, 0.6], [0.5, 0.5]], [[np.nan, 1], [0.5, 0.5]], [[-0.1, 1.1], [0, 1]], [[1.0], [1.0]], [0.5, 0.5]]
)
def test_broken_probabilities_are_refused(p):
    with pytest.raises(ModelError, match="probabilities"):
        evaluate(np.array(p), np.array([0, 1]))


def test_a_better_model_is_better_and_the_other_way_round_worse():
    (weak, y), (strong, _) = world(600, 0.8, seed=1), world(600, 2.5, seed=1)
    up, down = compare(weak, strong, y), compare(strong, weak, y)
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert up.auc_gain.low > 0 > down.auc_gain.high
    assert up.auc_gain.value == pytest.approx(-down.auc_gain.value)
    assert up.auc_gain.value == pytest.approx(
        metrics.roc_auc_score(y, strong[:, 1]) - metrics.roc_auc_score(y, weak[:, 1])
    )
    assert up.accuracy_gain.value == pytest.approx(up.new_accuracy - up.old_accuracy)
    assert up.accuracy_gain.value == pytest.approx((len(up.fixed) - len(up.broken)) / 600)
    assert (up.fixed, up.broken) == (down.broken, down.fixed)
    assert f"{up.old_auc:.3f} to {up.new_auc:.3f}" in up.reason


def test_the_reason_tells_both_gains_with_their_intervals_and_mcnemars_p():
    (weak, y), (strong, _) = world(600, 0.8, seed=1), world(600, 2.5, seed=1)
    for got, verdict in ((compare(weak, strong, y), "lies above 0"), (compare(strong, weak, y), "lies below 0")):
        auc, right = got.auc_gain, got.accuracy_gain
        for one in (auc, right):
            assert f"{one.value:+.3f}, 95 % interval {one.low:+.3f} to {one.high:+.3f}" in got.reason
        assert f"accuracy from {got.old_accuracy:.3f} to {got.new_accuracy:.3f}" in got.reason
        assert f"McNemar's p {got.mcnemar_p:.2g}" in got.reason
        assert got.reason.endswith(f"all of AUC's interval {verdict}")
    same = compare(weak, weak, y)
    assert same.reason.endswith("AUC's interval contains 0, so chance may explain the difference")


def test_a_model_that_ranks_better_and_labels_worse_by_its_thresholds_is_the_same():
    (weak, y), (strong, _) = world(600, 0.8, seed=1), world(600, 2.5, seed=1)
    wild = compare(weak, strong, y, new_thresholds=[0.95, 0.05])
    assert wild.auc_gain.low > 0 > wild.accuracy_gain.high
    assert wild.verdict == "same"
    assert "AUC is better, but by its thresholds it labels more images wrong" in wild.reason
    unsure = compare(weak, strong, y, new_thresholds=[0.8, 0.2])
    assert unsure.accuracy_gain.low < 0 < unsure.accuracy_gain.high
    assert unsure.verdict == "better", "what chance may explain takes nothing back"
    assert compare(strong, weak, y, old_thresholds=[0.95, 0.05]).verdict == "worse", "more right labels save no ranking"


def test_a_model_is_the_same_as_itself():
    p, y = world(300, 1.0)
    got = compare(p, p, y)
    assert (got.verdict, got.mcnemar_p, got.fixed, got.broken) == ("same", 1.0, [], [])
    assert (got.auc_gain.low, got.auc_gain.high, got.accuracy_gain.value) == (0.0, 0.0, 0.0)


def test_pairing_sees_a_gain_that_two_separate_intervals_would_hide():
    p, y = world(400, 1.5, seed=3)
    logit = np.log(p[:, 1] / p[:, 0])
    nudged = two(1 / (1 + np.exp(-(logit + 0.15 * (2 * y - 1)))))
    got, old, new = compare(p, nudged, y), evaluate(p, y).auc, evaluate(nudged, y).auc
    assert got.verdict == "better"
    assert new.low < old.high  # unpaired: they overlap


def test_chance_alone_seldom_makes_a_verdict():
    rng = np.random.default_rng(0)
    verdicts = []
    for seed in range(100):
        p, y = world(200, 1.0, seed=seed)
        logit = np.log(p[:, 1] / p[:, 0])
        old, new = (two(1 / (1 + np.exp(-(logit + rng.normal(size=200))))) for _ in range(2))
        verdicts.append(compare(old, new, y, bootstrap=300).verdict)
    assert 80 <= verdicts.count("same") < 100
    assert verdicts.count("not enough data") == 0


def test_fixed_and_broken_are_the_images():
    y = np.array([0, 0, 1, 1, 1])
    got = compare(two([0.9, 0.1, 0.2, 0.9, 0.1]), two([0.1, 0.9, 0.8, 0.9, 0.2]), y, min_per_class=2)
    assert (got.fixed, got.broken) == ([0, 2], [1])
    assert got.mcnemar_p == pytest.approx(binomtest(1, 3).pvalue)


def test_too_few_images_of_a_class_make_no_verdict():
    y = np.repeat([0, 1], [100, 19])
    good, bad = two(np.where(y, 0.9, 0.1)), two(np.where(y, 0.1, 0.9))
    got = compare(bad, good, y)
    assert got.verdict == "not enough data"
    assert got.reason == "class 1 has 19 held-out images, every class needs 20"
    assert got.auc_gain.value == 1.0
    assert compare(bad, good, y, min_per_class=19).verdict == "better"
    alone = compare(bad[:50], good[:50], y[:50])
    assert (alone.verdict, alone.auc_gain, alone.new_auc) == ("not enough data", None, None)
    assert alone.new_accuracy == 1.0


def test_models_with_other_classes_cannot_be_compared():
    with pytest.raises(ModelError, match="has 3 classes, the old one 2"):
        compare(two([0.5]), np.full((1, 3), 1 / 3), np.array([0]))


@given(fixed=st.integers(0, 400), broken=st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test(fixed, broken):
    expected = binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    assert mcnemar(fixed, broken) == pytest.approx(expected, rel=1e-6)


def test_mcnemar_of_very_many_images_does_not_overflow():
    assert mcnemar(3000, 3000) == 1.0
    assert mcnemar(3000, 3400) == pytest.approx(binomtest(3000, 6400).pvalue, rel=1e-6)


def test_evaluating_needs_neither_torch_nor_sklearn_nor_scipy():
    code = "import sys, hub.evaluate; sys.exit(bool({'torch', 'sklearn', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_model_is_judged_by_what_cameras_would_call_the_images():
    p, y = two([0.9, 0.4, 0.3, 0.1]), np.array([1, 1, 0, 0])
    plain, low = evaluate(p, y), evaluate(p, y, thresholds=[0.8, 0.2])
    assert (plain.confusion, low.confusion) == ([[2, 0], [1, 1]], [[1, 1], [0, 2]])
    assert (plain.accuracy.value, low.classes[1].recall) == (0.75, 1.0)
    assert (plain.auc, plain.ece) == (low.auc, low.ece), "of these, thresholds say nothing"
    told = compare(p, p, y, new_thresholds=[0.8, 0.2], min_per_class=1)
    assert (told.fixed, told.broken) == ([1], [2])
    assert (told.old_accuracy, told.new_accuracy) == (0.75, 0.75)
    assert compare(p, p, y, old_thresholds=[0.8, 0.2], min_per_class=1).fixed == [2]
