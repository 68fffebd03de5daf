"""A head with a hidden layer learns what a plane cannot tell apart, stops in time, repeats itself, and goes on."""

import msgspec
import numpy as np
import pytest
import torch

from hub.checkpoint import Checkpoint
from hub.epochs import Trainer, device_name
from hub.export import export_head
from hub.mlp import train_mlp
from hub.settings import TrainSettings
from hub.train import train_head
from shared.errors import ConfigError, TrainError
from shared.litert import Part
from tests.hub.test_train import clouds

QUICK = TrainSettings(kind="mlp", epochs=6, patience=3, folds=2, hidden=16, learning_rate=0.003, dropout=0.1)


def rings(count, seed=0):
    """Two classes that differ in their distance to the centre only, in 4 of 12 dimensions."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.normal(size=(count, 12))
    x[:, :4] *= (np.where(y, 2.5, 0.8) / np.linalg.norm(x[:, :4], axis=1))[:, np.newaxis]
    return (x * rng.uniform(0.5, 3) + 2).astype(np.float32), y


def run(x, y, settings=QUICK, **options):
    seen = []
    return train_mlp(x, y, int(y.max()) + 1, settings, seen.append, **options), seen


def numbers(head):
    return b"".join(one.tobytes() for one in (head.hidden.weights, head.hidden.bias, head.weights, head.bias))


def accuracy(head, x, y):
    return (head.probabilities(x).argmax(axis=1) == y).mean()


def test_it_learns_what_no_plane_can():
    x, y = rings(600)
    unseen = rings(600, seed=1)
    settings = msgspec.structs.replace(QUICK, epochs=40, patience=10, hidden=64)
    trained, _ = run(x, y, settings)
    plain = train_head(x, y, 2, settings, lambda _: None)
    scale = rings(600)[0].std() / unseen[0].std()
    shifted = ((unseen[0] - 2) * scale + 2).astype(np.float32)
    assert accuracy(trained.head, shifted, unseen[1]) > 0.85
    assert accuracy(plain.head, shifted, unseen[1]) < 0.65
    assert trained.oof_auc > 0.9


def test_three_classes_and_the_exported_head_computes_the_same():
    x, y = clouds([60, 60, 60], apart=3)
    trained, _ = run(x, y)
    part = Part(export_head(trained.head), name="head")
    probabilities, confidence = zip(*(part.run_all(row[np.newaxis]) for row in x[:20]), strict=True)
    np.testing.assert_allclose(np.concatenate(probabilities), trained.head.probabilities(x[:20]), atol=1e-5)
    np.testing.assert_allclose(np.concatenate(confidence)[:, 0], trained.head.confidences(x[:20]), atol=1e-5)


def test_out_of_fold_predictions_cover_every_image_once_and_are_calibrated():
    x, y = clouds([60, 40])
    trained, _ = run(x, y)
    assert sorted(trained.oof_rows) == list(range(100))
    np.testing.assert_allclose(trained.oof.sum(axis=1), 1)
    loss = -np.log(trained.oof[np.arange(100), y[trained.oof_rows]])
    weights = np.where(y[trained.oof_rows] == 1, 1 / 80, 1 / 120)
    assert weights @ loss == pytest.approx(trained.oof_log_loss)
    assert 0.1 <= trained.temperature <= 10


def test_near_copies_do_not_promise_what_is_not_there():
    rng = np.random.default_rng(0)
    near = np.repeat(np.arange(24), 5)
    y = rng.integers(0, 2, 24)[near]
    x = (rng.normal(size=(24, 32))[near] + rng.normal(0, 0.01, (120, 32))).astype(np.float32)
    settings = msgspec.structs.replace(QUICK, epochs=30, patience=30)
    assert run(x, y, settings)[0].oof_auc > 0.9
    assert run(x, y, settings, near=near)[0].oof_auc < 0.8


def test_it_is_repeatable_bit_by_bit_and_the_seed_matters():
    x, y = clouds([40, 40])
    first, again, other = run(x, y)[0], run(x, y)[0], run(x, y, msgspec.structs.replace(QUICK, seed=1))[0]
    assert numbers(first.head) == numbers(again.head)
    assert (first.temperature, first.losses) == (again.temperature, again.losses)
    assert numbers(first.head) != numbers(other.head)


def test_it_stops_when_the_unseen_loss_grows():
    x, _ = clouds([60, 60])
    y = np.random.default_rng(3).permutation(np.repeat([0, 1], 60))  # nothing to be learned
    settings = msgspec.structs.replace(QUICK, epochs=200, patience=4, learning_rate=0.01)
    trained, seen = run(x, y, settings)
    assert trained.epochs < 20
    held_out = [one for one in seen if one.step <= 200]
    assert len(held_out) == trained.epochs + 4
    assert min(range(len(held_out)), key=lambda one: held_out[one].loss) + 1 == trained.epochs


def test_dropout_and_hidden_units_are_settings():
    x, y = clouds([40, 40])
    plain, _ = run(x, y, msgspec.structs.replace(QUICK, dropout=0.0))
    dropped, _ = run(x, y, msgspec.structs.replace(QUICK, dropout=0.8))
    assert plain.losses[0] < dropped.losses[0]
    assert run(x, y, msgspec.structs.replace(QUICK, hidden=5))[0].head.hidden.weights.shape == (5, 40)


def test_mixed_precision_learns_too():
    x, y = clouds([60, 60], apart=3)
    trained, _ = run(x, y, msgspec.structs.replace(QUICK, precision="mixed"))
    assert trained.head.weights.dtype == np.float32
    assert accuracy(trained.head, x, y) > 0.9


class Ended(Exception):  # noqa: N818
    """The process is gone."""


@pytest.mark.parametrize("at", [2, 5, 8])
def test_a_training_that_is_ended_goes_on_where_it_was_and_ends_the_same(tmp_path, at):
    x, y = clouds([40, 40])
    settings = msgspec.structs.replace(QUICK, patience=6)
    whole, seen = run(x, y, settings)
    steps = [one.step for one in seen]
    told = []

    def end(progress):
        told.append(progress.step)
        if len(told) == at:
            raise Ended

    path = tmp_path / "checkpoint"
    with pytest.raises(Ended):
        train_mlp(x, y, 2, settings, end, checkpoint=Checkpoint(path, "one", every_s=0))
    assert path.exists()
    resumed, rest = run(x, y, settings, checkpoint=Checkpoint(path, "one", every_s=0))
    # What was told is kept after it, so the step at which it was ended is done again, and no other.
    assert [one.step for one in rest] == steps[at - 1 :]
    assert numbers(resumed.head) == numbers(whole.head)
    assert (resumed.losses, resumed.temperature) == (whole.losses, whole.temperature)


def test_a_checkpoint_of_another_training_or_a_broken_one_is_not_used(tmp_path):
    x, y = clouds([40, 40])
    path = tmp_path / "checkpoint"
    run(x, y, checkpoint=Checkpoint(path, "one", every_s=0))
    assert Checkpoint(path, "one").load() is not None
    assert Checkpoint(path, "another").load() is None
    path.write_bytes(path.read_bytes()[:1000])
    assert Checkpoint(path, "one").load() is None
    _, seen = run(x, y, checkpoint=Checkpoint(path, "one"))
    assert seen[0].step == 1
    Checkpoint(path, "one").drop()
    assert not path.exists()
    Checkpoint(path, "one").drop()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_gpu_learns_what_the_processor_learns(precision):
    x, y = clouds([60, 60], apart=3)
    settings = msgspec.structs.replace(QUICK, precision=precision, dropout=0.0)
    here, _ = run(x, y, msgspec.structs.replace(settings, device="cpu"))
    there, _ = run(x, y, msgspec.structs.replace(settings, device="cuda"))
    assert device_name(msgspec.structs.replace(settings, device="cuda")) == f"cuda {torch.cuda.get_device_name()}"
    assert accuracy(there.head, x, y) > 0.9
    assert there.oof_auc == pytest.approx(here.oof_auc, abs=0.02)
    np.testing.assert_allclose(there.head.probabilities(x), here.head.probabilities(x), atol=0.05)


def test_a_gpu_that_is_not_there_is_told():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    x, y = clouds([20, 20])
    with pytest.raises(ConfigError, match=r"train\.device: is cuda, and torch finds no GPU"):
        run(x, y, msgspec.structs.replace(QUICK, device="cuda"))


def test_what_cannot_be_learned_from_is_refused():
    x, y = clouds([20, 20])
    with pytest.raises(TrainError, match="not finite"):
        run(np.full_like(x, np.nan), y)
    with pytest.raises(TrainError, match="embeddings are the same"):
        run(np.ones_like(x), y)


def test_a_loss_that_explodes_is_told():
    class Task:
        def make(self, rows):
            return torch.nn.Linear(2, 2)

        def batch(self, rows, rng):
            return torch.full((len(rows), 2), 3e38)

    trainer = Trainer(Task(), np.arange(8) % 2, 2, msgspec.structs.replace(QUICK, learning_rate=1.0))
    with pytest.raises(TrainError, match=r"loss became (nan|inf) in epoch \d+.*learning_rate"):
        trainer.learn([np.arange(2)], lambda _: None)


def test_each_batch_is_told_with_the_loss_so_far():
    x, y = clouds([40, 40])
    told = []
    settings = msgspec.structs.replace(QUICK, batch_size=8, epochs=3, patience=3)
    trained, seen = run(x, y, settings, inside=told.append)
    first = [one for one in told if one.step == 0]
    assert len(first) == 2 * (5 + 5), "two folds, to train on and to predict"
    assert (first[0].share, first[-1].share, first[0].steps) == (1 / 20, 1.0, 6)
    assert 0 < first[-1].loss < 2
    last = [one for one in told if one.step == seen[-1].step - 1]
    assert (len(last), last[-1].share, last[-1].steps) == (10, 1.0, 3 + trained.epochs)
    assert last[-1].loss == pytest.approx(trained.losses[-1], abs=1e-6)


def test_after_each_batch_it_can_be_ended():
    x, y = clouds([40, 40])
    asked = []

    def check():
        asked.append(True)
        if len(asked) == 3:
            raise Ended

    with pytest.raises(Ended):
        run(x, y, msgspec.structs.replace(QUICK, batch_size=8), check=check)
