"""A head learns what can be learned, says how sure it is, does so repeatably, and refuses what it cannot learn from."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_info

from hub.folds import auc_of, folds_of, log_loss, softmax, temperature_of
from hub.settings import TrainSettings
from hub.train import Progress, train_head
from shared.errors import TrainError

QUICK = TrainSettings(l2=(0.03, 0.003), folds=3)


def clouds(counts, dims=40, apart=1.5, seed=0):
    """Normal clouds around one random centre a class, all dimensions scaled unevenly."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(len(counts), dims)) * apart / np.sqrt(dims) * 2
    scales = np.random.default_rng(98).uniform(0.2, 5, dims)
    y = np.repeat(np.arange(len(counts)), counts)
    x = (centres[y] + rng.normal(size=(len(y), dims))) * scales + 3
    order = rng.permutation(len(y))
    return x[order].astype(np.float32), y[order]


def run(x, y, classes=2, settings=QUICK):
    seen: list[Progress] = []
    return train_head(x, y, classes, settings, seen.append), seen


def mean_loss(head, x, y, temperature):
    logits = (x @ head.weights.T + head.bias) / temperature
    return -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(y)), y].mean()


def test_two_classes_are_learned_about_as_well_as_they_can_be():
    x, y = clouds([100, 100])
    trained, _ = run(x, y, settings=TrainSettings())
    unseen_x, unseen_y = clouds([500, 500], seed=1)
    auc = roc_auc_score(unseen_y, trained.head.probabilities(unseen_x)[:, 1])
    rival = LogisticRegression(C=0.01, max_iter=1000).fit((x - x.mean(0)) / x.std(0), y)
    assert auc > roc_auc_score(unseen_y, rival.decision_function((unseen_x - x.mean(0)) / x.std(0))) - 0.01
    assert auc == pytest.approx(trained.oof_auc, abs=0.05)  # out-of-fold is an honest forecast
    assert trained.head.weights.dtype == trained.head.bias.dtype == np.float32
    assert trained.head.weights.shape == (2, 40)


def test_three_classes_are_learned():
    x, y = clouds([60, 60, 60], apart=3)
    trained, _ = run(x, y, 3)
    unseen_x, unseen_y = clouds([200] * 3, apart=3, seed=1)
    p = trained.head.probabilities(unseen_x)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert (p.argmax(axis=1) == unseen_y).mean() > 0.9
    assert trained.oof_auc > 0.95


def test_labels_without_a_pattern_promise_nothing():
    x, _ = clouds([200, 200])
    y = np.random.default_rng(5).permutation(np.repeat([0, 1], 200))
    trained, _ = run(x, y, settings=TrainSettings())
    assert abs(trained.oof_auc - 0.5) < 0.1
    assert trained.oof_log_loss == pytest.approx(np.log(2), abs=0.02)
    assert trained.l2 == 0.03  # the strongest: nothing to be learned


def test_the_fit_is_the_optimum_that_sklearn_finds():
    x, y = clouds([40, 40])
    settings = TrainSettings(l2=(0.01,), folds=2, class_balanced=False)
    trained, _ = run(x, y, settings=settings)
    scale = x.std(0) + settings.shrinkage * x.std(0).mean()
    z = (x - x.mean(0)) / scale
    z /= np.sqrt((z**2).sum(1).mean())
    # two rows w and -w: l2 / 2 * 2 |w|^2 on a margin 2 w, so sklearn's C is 2 / (n l2) on the margin
    rival = LogisticRegression(C=2 / (len(y) * 0.01), tol=1e-8, max_iter=1000).fit(z, y)
    logits = x.astype(np.float64) @ trained.head.weights.T + trained.head.bias
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], rival.decision_function(z), atol=2e-3)


def test_more_images_than_dimensions_and_fewer_give_the_same_optimum_as_the_full_problem():
    for counts, dims in (([30, 30], 200), ([300, 300], 5)):
        x, y = clouds(counts, dims=dims)
        trained, _ = run(x, y)
        assert trained.head.weights.shape == (2, dims)
        assert trained.oof_auc > 0.7
        assert list(trained.losses) == sorted(trained.losses, reverse=True) or trained.losses[-1] == min(trained.losses)


def test_it_is_repeatable_bit_by_bit_and_the_seed_matters():
    x, y = clouds([50, 50])
    first, _ = run(x, y)
    again, _ = run(x, y)
    assert first.head.weights.tobytes() == again.head.weights.tobytes()
    assert first.head.bias.tobytes() == again.head.bias.tobytes()
    assert (first.temperature, first.tried) == (again.temperature, again.tried)
    other, _ = run(x, y, settings=msgspec.structs.replace(QUICK, seed=1))
    assert other.tried != first.tried


def test_the_strength_is_the_one_with_the_least_out_of_fold_loss():
    x, y = clouds([30, 30], dims=200, apart=1)
    trained, _ = run(x, y, settings=TrainSettings(l2=(1e-5, 1e-1, 1e-3), folds=3))
    assert [one.l2 for one in trained.tried] == [1e-1, 1e-3, 1e-5]
    best = min(trained.tried, key=lambda one: one.log_loss)
    assert (trained.l2, trained.oof_auc) == (best.l2, best.auc)
    assert trained.oof_log_loss <= best.log_loss  # calibration only helps on what it was fitted to


def test_a_temperature_calms_a_head_that_was_too_sure():
    x, y = clouds([60, 60], dims=200, apart=0.7)
    trained, _ = run(x, y, settings=TrainSettings(l2=(1e-6,), folds=5))
    assert trained.temperature > 1.5
    assert trained.head.temperature == trained.temperature
    unseen_x, unseen_y = clouds([500, 500], dims=200, apart=0.7, seed=1)
    calm = mean_loss(trained.head, unseen_x, unseen_y, trained.temperature)
    assert calm < mean_loss(trained.head, unseen_x, unseen_y, 1.0)


def test_a_perfect_separation_stays_within_the_bounds_of_the_temperature():
    x, y = clouds([20, 20], apart=30)
    trained, _ = run(x, y)
    assert 0.1 <= trained.temperature <= 10
    assert np.isfinite(trained.head.probabilities(x)).all()
    assert trained.oof_auc == 1.0


def test_balance_makes_a_rare_class_as_heavy_as_a_common_one():
    x, y = clouds([300, 15], apart=1)
    unseen_x, _ = clouds([0, 300], apart=1, seed=1)
    settings = TrainSettings(l2=(0.01,), folds=3)
    balanced, _ = run(x, y, settings=settings)
    plain, _ = run(x, y, settings=msgspec.structs.replace(settings, class_balanced=False))
    found = [(one.head.probabilities(unseen_x)[:, 1] > 0.5).mean() for one in (balanced, plain)]
    assert found[0] > found[1] + 0.2


def test_a_dimension_that_never_changes_does_no_harm():
    x, y = clouds([50, 50])
    x[:, 3] = 7
    trained, _ = run(x, y)
    assert np.isfinite(trained.head.weights).all()
    alone, _ = run(x, y, settings=msgspec.structs.replace(QUICK, shrinkage=0.0))
    assert np.isfinite(alone.head.weights).all()


def test_progress_counts_to_the_end():
    x, y = clouds([50, 50])
    trained, seen = run(x, y)
    assert [one.step for one in seen] == list(range(1, 3 * 2 + 2))
    assert {one.steps for one in seen} == {7}
    assert (seen[-1].loss, seen[-1].metric) == (trained.oof_log_loss, trained.oof_auc)
    assert trained.seconds > 0
    assert trained.losses[-1] < trained.losses[0]


def test_what_progress_raises_ends_the_run():
    class Cancelled(Exception):  # noqa: N818
        pass

    def cancel(progress):
        raise Cancelled

    x, y = clouds([50, 50])
    before = threadpool_info()
    with pytest.raises(Cancelled):
        train_head(x, y, 2, msgspec.structs.replace(QUICK, threads=7), cancel)
    assert threadpool_info() == before


@pytest.mark.parametrize(("fewest", "folds"), [(2, 2), (3, 3), (4, 4), (40, 5)])
def test_folds_are_as_many_as_the_rarest_class_allows(fewest, folds):
    x, y = clouds([40, fewest], apart=3)
    trained, seen = run(x, y, settings=TrainSettings(l2=(0.01,)))
    assert trained.folds == folds
    assert seen[-1].steps == folds + 1


def test_folds_spread_every_class_evenly():
    y = np.repeat([0, 1, 2], [50, 11, 5])
    side = folds_of(y, 5, np.random.default_rng(0))
    for label in range(3):
        sizes = np.bincount(side[y == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1


def _nan(x):
    x[3, 2] = np.nan
    x[9, 0] = np.inf


@pytest.mark.parametrize(
    ("spoil", "labels", "classes", "says"),
    [
        (_nan, None, 2, "2 of 20 embeddings are not finite, the first is number 3"),
        (None, np.zeros(20, int), 2, "class 1 has 0"),
        (None, np.arange(20) == 4, 2, "class 1 has 1"),
        (None, None, 4, "class 2 has 0, class 3 has 0"),
        (None, np.zeros(20, int), 1, "needs 2 classes, the project has 1"),
        (None, np.full(20, 2), 2, "labels 2 to 2 of 2 classes"),
        (None, np.full(20, -1), 2, "labels -1 to -1 of 2 classes"),
        (None, np.zeros(19, int), 2, "do not fit"),
        (lambda x: x.fill(1), None, 2, "embeddings are the same"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_plain_words(spoil, labels, classes, says):
    x, y = clouds([10, 10])
    if spoil:
        spoil(x)
    with pytest.raises(TrainError, match=says):
        run(x, y if labels is None else labels.astype(int), classes)


def test_an_empty_training_set_is_refused():
    with pytest.raises(TrainError, match="class 0 has 0, class 1 has 0"):
        run(np.zeros((0, 4), np.float32), np.zeros(0, int))


@pytest.mark.parametrize("change", [{"l2": ()}, {"l2": (0.1, 0.0)}, {"folds": 1}, {"max_iterations": 0}])
def test_settings_that_make_no_sense_are_refused(change):
    x, y = clouds([10, 10])
    with pytest.raises(TrainError, match="training settings"):
        run(x, y, settings=msgspec.structs.replace(QUICK, **change))


def test_unknown_settings_are_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"fold": 3}, TrainSettings)
    assert msgspec.json.decode(msgspec.json.encode(QUICK), type=TrainSettings) == QUICK


def test_a_linear_head_is_trained_and_judged_without_torch():
    code = """
import sys
import numpy as np
import hub.run
from hub.evaluate import evaluate
from hub.export import export_head
from hub.settings import TrainSettings
from hub.train import train_head

x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
y = (x[:, 0] > 0).astype(int)
head = train_head(x, y, 2, TrainSettings(), lambda _: None).head
export_head(head)
evaluate(head.probabilities(x), y)
print([one for one in ("torch", "sklearn", "scipy", "litert_torch") if one in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_out_of_fold_probabilities_are_calibrated_and_of_every_image():
    x, y = clouds([60, 40])
    trained, _ = run(x, y)
    assert (trained.oof_rows == np.arange(100)).all()
    weights = np.where(y == 1, 1 / 80, 1 / 120)
    assert -weights @ np.log(trained.oof[np.arange(100), y]) == pytest.approx(trained.oof_log_loss)


@pytest.mark.parametrize("seed", range(5))
def test_the_auc_is_what_sklearn_computes(seed):
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=(60, 3)), 1)  # with ties
    y = rng.integers(0, 3, 60)
    rest = softmax(logits)
    assert auc_of(logits, y) == pytest.approx(roc_auc_score(y, rest, multi_class="ovr"), abs=0.02)
    two = logits[:, :2]
    assert auc_of(two, y % 2) == pytest.approx(roc_auc_score(y % 2, two[:, 1] - two[:, 0]))


def test_the_temperature_is_the_one_of_least_loss():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    logits = rng.normal(size=(300, 2)) + 2 * np.eye(2)[y]
    found = temperature_of(4 * logits, y, True)
    losses = {t: log_loss(4 * logits / t, y, True) for t in np.linspace(0.5, 9, 400)}
    assert found == pytest.approx(min(losses, key=losses.get), abs=0.05)
