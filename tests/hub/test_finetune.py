"""Fine-tuning changes what it may change and nothing else, learns, repeats itself, and exports what it trained."""

import msgspec
import numpy as np
import pytest
import torch

import hub.finetune
from hub.checkpoint import Checkpoint
from hub.export import convert, lite0
from hub.finetune import augmented, finetune
from hub.settings import TrainSettings
from shared.litert import Part
from shared.preprocess import Preprocess, decode, to_input
from tests.hub.making import picture

HOW = Preprocess(size=64)
QUICK = TrainSettings(kind="blocks", epochs=2, patience=2, folds=2, blocks=1, batch_size=8, dropout=0.0)
LABELS = np.arange(16) % 2
PIXELS = [decode(picture(seed, defect=bool(label))) for seed, label in enumerate(LABELS)]


@pytest.fixture(scope="module")
def embeddings():
    net = lite0(HOW.size).eval()
    with torch.no_grad():
        x = torch.from_numpy(np.concatenate([to_input(one, HOW) for one in PIXELS])).permute(0, 3, 1, 2)
        return net.extract_features(x).mean((2, 3)).numpy()


def run(embeddings, settings=QUICK, **options):
    seen = []
    tuned = finetune(PIXELS.__getitem__, embeddings, LABELS, 2, HOW, settings=settings, progress=seen.append, **options)
    return tuned, seen


def changed(net):
    """The names of the tensors that are not those of Lite0."""
    before = lite0(HOW.size).state_dict()
    return {name for name, one in net.state_dict().items() if not torch.equal(one, before[name])}


def test_only_the_last_blocks_change(embeddings):
    tuned, seen = run(embeddings)
    names = changed(tuned.net)
    assert names
    assert all(name.startswith(("_blocks.15.", "_conv_head.", "_bn1.")) for name in names)
    assert not any("running" in name for name in names), "batch normalisation keeps its statistics"
    trained = tuned.trained
    assert sorted(LABELS[trained.oof_rows]) == [0] * 4 + [1] * 4, "one of two folds is held out"
    assert trained.head.weights.shape == (2, 1280)
    assert (seen[0].step, seen[0].steps) == (1, 4)


def test_near_copies_are_held_out_together(embeddings):
    near = np.array([0, 1, 0, 1, *range(2, 14)])
    tuned, _ = run(embeddings, near=near)
    rows = set(tuned.trained.oof_rows.tolist())
    assert {0, 2} <= rows or not {0, 2} & rows
    assert {1, 3} <= rows or not {1, 3} & rows
    assert len(near[tuned.trained.oof_rows]) == len(rows)


def test_all_layers_change_and_the_loss_falls(embeddings):
    tuned, _ = run(embeddings, msgspec.structs.replace(QUICK, kind="full", epochs=4, learning_rate=0.001))
    names = changed(tuned.net)
    assert "_conv_stem.weight" in names
    assert "_blocks.3._project_conv.weight" in names
    longer, _ = run(embeddings, msgspec.structs.replace(QUICK, epochs=8, patience=8, learning_rate=0.001))
    assert longer.trained.losses[-1] < longer.trained.losses[0] or longer.trained.epochs == 1


def test_with_mixed_precision_the_frozen_blocks_are_mixed_too(embeddings, monkeypatch):
    seen = []
    through = hub.finetune._Task._through
    monkeypatch.setattr(
        hub.finetune._Task, "_through", lambda *args: seen.append(through(*args).dtype) or through(*args)
    )
    mixed = msgspec.structs.replace(QUICK, precision="mixed")
    tuned, _ = run(embeddings, mixed)
    assert set(seen) == {torch.bfloat16}
    assert tuned.trained.head.weights.dtype == np.float32
    assert tuned.trained.oof_auc > 0.5
    seen.clear()
    run(embeddings, QUICK)
    assert set(seen) == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("kind", ["blocks", "full"])
def test_a_gpu_learns_what_the_processor_learns(embeddings, tmp_path, kind, precision):
    settings = msgspec.structs.replace(QUICK, kind=kind, precision=precision)
    here, _ = run(embeddings, msgspec.structs.replace(settings, device="cpu"))
    checkpoint = Checkpoint(tmp_path / "one", "one", every_s=0)
    there, _ = run(embeddings, msgspec.structs.replace(settings, device="cuda"), checkpoint=checkpoint)
    assert changed(there.net) == changed(here.net)
    assert {one.device.type for one in there.net.state_dict().values()} == {"cpu"}
    both = np.corrcoef(there.trained.head.weights.ravel(), here.trained.head.weights.ravel())
    assert both[0, 1] > 0.95, "rounded otherwise, and no more"
    assert there.trained.oof_auc == pytest.approx(here.trained.oof_auc, abs=0.1)
    resumed, seen = run(embeddings, msgspec.structs.replace(settings, device="cuda"), checkpoint=checkpoint)
    assert len(seen) < 4
    assert resumed.trained.epochs == there.trained.epochs


def test_it_is_repeatable_and_goes_on_where_it_was(embeddings, tmp_path):
    class Ended(Exception):  # noqa: N818
        pass

    settings = msgspec.structs.replace(QUICK, augment=("flip_horizontal", "rotate", "gain"), dropout=0.3)
    first, seen = run(embeddings, settings)

    def end(progress):
        if progress.step == seen[-1].step:
            raise Ended

    checkpoint = Checkpoint(tmp_path / "one", "one", every_s=0)
    with pytest.raises(Ended):
        finetune(PIXELS.__getitem__, embeddings, LABELS, 2, HOW, settings=settings, progress=end, checkpoint=checkpoint)
    again, rest = run(embeddings, settings, checkpoint=checkpoint)
    assert len(rest) < len(seen)
    assert again.trained.head.weights.tobytes() == first.trained.head.weights.tobytes()
    for name, one in first.net.state_dict().items():
        assert torch.equal(one, again.net.state_dict()[name]), name


def test_what_is_exported_computes_what_was_trained(embeddings):
    tuned, _ = run(embeddings)
    part = Part(convert(tuned.net, HOW.size), name="backbone")
    x = to_input(PIXELS[0], HOW)
    with torch.no_grad():
        expected = tuned.net.eval().extract_features(torch.from_numpy(x).permute(0, 3, 1, 2)).mean((2, 3)).numpy()
    np.testing.assert_allclose(part.run(x), expected, atol=1e-4)
    assert np.abs(part.run(x) - embeddings[0]).max() > 1e-3, "not Lite0's own"


def test_augmentations_do_what_their_names_say():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[1, 2] = 200

    def places(which):
        rng = np.random.default_rng(0)
        return {tuple(np.argwhere(augmented(pixels, which, rng)[..., 0] > 150)[0]) for _ in range(40)}

    assert places(()) == {(1, 2)}
    assert places(("flip_horizontal",)) == {(1, 2), (1, 5)}
    assert places(("flip_vertical",)) == {(1, 2), (6, 2)}
    assert len(places(("flip_horizontal", "flip_vertical"))) == 4
    grey = np.full((16, 16, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    values = {int(augmented(grey, ("gain",), rng)[0, 0, 0]) for _ in range(60)}
    assert 85 <= min(values) < 90
    assert 110 < max(values) <= 115
    assert (augmented(grey, ("rotate",), rng) == 100).all()
    turned = augmented(picture_with_a_bar(), ("rotate",), rng)
    assert turned.shape == (64, 64, 3)
    assert not np.array_equal(turned, picture_with_a_bar())


def picture_with_a_bar():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 30:34] = 255
    return pixels
