"""A release as one file: what it computes was held against the release, and it carries labels and card."""

import io
import zipfile

import msgspec
import numpy as np
import pytest

import hub.handout
from hub.__main__ import main
from hub.export import export_head, golden_part
from hub.handout import handout, parts_of
from hub.settings import read
from hub.store import open_store
from hub.tables import Release, Run
from shared.errors import GoldenError, ModelError, StoreError
from shared.golden import decode, golden_outputs
from shared.litert import Model, Part
from shared.manifest import ModelSpec, PartSpec
from shared.preprocess import Preprocess, to_input
from tests.fakes.models import mean_backbone
from tests.hub.making import CLASSES, NOW, toml_in
from tests.hub.test_export import images, make_head

HOW = Preprocess(size=32)


def released(store, number=1, **model):
    """A release whose backbone is not Lite0."""
    part = Part(mean_backbone(32), name="backbone")
    head = export_head(make_head(2, 3, seed=number))
    blobs = [mean_backbone(32), head, golden_part(images(2), part, HOW)]
    parts = {
        name: PartSpec(sha256=one, size=len(blob))
        for name, one, blob in zip(("backbone", "head", "golden"), store.blobs.put(blobs), blobs, strict=True)
    }
    whole = Model(part, Part(head, name="head"), CLASSES, HOW)
    golden = golden_outputs(whole, decode(blobs[2]))
    spec = ModelSpec(**parts, classes=CLASSES, preprocess=HOW, golden_probabilities=golden, **model)
    with store.write() as session:
        run = Run(project="cells", state="done", created_at=NOW, settings={"kind": "linear"})
        session.add(run)
        session.flush()
        fields = {"created_at": NOW, "expires_at": NOW, "envelope": b"", "model": msgspec.to_builtins(spec)}
        session.add(Release(project="cells", number=number, run_id=run.id, **fields))
    return whole


def test_the_tflite_says_what_the_release_says_and_carries_its_card(settings, store):
    whole = released(store, thresholds=[0.7, 0.3])
    made = handout(parts_of(settings, store, 1), "tflite")
    assert (made.images, made.difference) == (2, 0.0)
    part = Part(made.data, name="export")
    for image in images(3, seed=5):
        got = part.run(to_input(image, Preprocess(size=32, mean=0, scale=1)))[0]
        np.testing.assert_allclose(got, whole.predict(image).probabilities, atol=1e-6)
    with zipfile.ZipFile(io.BytesIO(made.data)) as pack:
        assert pack.read("labels.txt").decode().split() == CLASSES
        assert b"# Model card: cells, release 1" in pack.read("card.md")
    assert b"multiple of its threshold: good 0.7, defect 0.3" in made.data


def test_without_a_number_it_is_the_newest_release(settings, store):
    released(store, 1)
    released(store, 2)
    assert parts_of(settings, store).number == 2


@pytest.mark.parametrize("number", [None, 7])
def test_a_release_that_is_not_there_is_a_clear_error(settings, store, number):
    with pytest.raises(StoreError, match="does not exist"):
        parts_of(settings, store, number)


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_another_backbone_than_lite0_is_had_as_tflite_only(settings, store, kind):
    released(store)
    with pytest.raises(ModelError, match=r"not EfficientNet-Lite0.*no more than the \.tflite.*--out FILE\.tflite"):
        handout(parts_of(settings, store), kind)


def test_a_file_that_says_something_else_is_not_given_away(settings, store, monkeypatch):
    released(store)
    real = hub.handout.merged
    monkeypatch.setattr(
        hub.handout, "merged", lambda backbone, *_: real(backbone, export_head(make_head(2, 3, seed=9)), HOW)
    )
    with pytest.raises(GoldenError, match="says something else than the release"):
        handout(parts_of(settings, store), "tflite")


def test_the_command_writes_the_file_and_reports_how_far_it_is(tmp_path, capsys):
    config = toml_in(tmp_path)
    store = open_store(read(config))
    released(store)
    store.close()
    out = tmp_path / "model.tflite"
    assert main(["export-model", "1", "--config", str(config), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"release 1 written to {out}, {out.stat().st_size} bytes; on 2 golden images" in said
    assert "within 0.0e+00 of the release's" in said
    assert main(["card", "1", "--config", str(config)]) == 0
    assert "# Model card: cells, release 1" in capsys.readouterr().out
    assert main(["card", "1", "--config", str(config), "--json"]) == 0
    assert '"release": 1,' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export-model", "1"], "Give --out, --onnx or --safetensors"),
        (["export-model", "1", "--out", "x.tflite"], "release 1: does not exist"),
        (["card", "1"], "release 1: does not exist"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, capsys, arguments, says):
    assert main([*arguments, "--config", str(toml_in(tmp_path))]) == 1
    assert says in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    config = toml_in(tmp_path)
    store = open_store(read(config))
    released(store)
    store.close()
    assert main(["export-model", "--config", str(config), "--out", str(tmp_path / "no" / "x.tflite")]) == 1
    assert "x.tflite: cannot be written (No such file or directory)" in capsys.readouterr().err
