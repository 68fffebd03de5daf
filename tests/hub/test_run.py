"""A run trains on what is labelled, proves itself on what is held out, and its row tells how it ended."""

import os
import shutil
from datetime import timedelta

import cv2
import msgspec
import numpy as np
import pytest
from sqlmodel import col, select

import hub.checkpoint
import hub.mlp
import hub.run
from hub import embed, named
from hub.dataset import snapshot
from hub.drift import Sample
from hub.export import export_head, golden_part
from hub.release import PARTS, model_of
from hub.repeat import again, resume
from hub.run import execute
from hub.runs import Runs
from hub.settings import DriftSettings, SplitSettings
from hub.tables import Assignment, Embedding, Image, Look, Reference, Release, Run, Suspect
from hub.train import train_head
from hub.underway import LEASE, Lease, Story
from shared.errors import ConfigError, ModelError, PartError, RunCancelledError, TrainError
from shared.golden import check
from shared.golden import decode as decode_golden
from shared.litert import Model, Part
from shared.manifest import ModelSpec, PartSpec
from shared.preprocess import decode
from shared.references import decode as decode_references
from shared.references import encode as encode_references
from tests.fakes.listener import wait_until
from tests.fakes.models import mean_backbone
from tests.hub.conftest import CACHE
from tests.hub.making import CLASSES, NOW, QUICK, add_image, add_vector, divide, picture


def get_run(store, number):
    with store.read() as session:
        found = session.get(Run, number)
        assert found is not None
        return found


def queue(store):
    with store.write() as session:
        run = Run(project="cells", created_at=NOW)
        session.add(run)
        session.flush()
        return run.id


def all_images(store, *where):
    with store.read() as session:
        return session.exec(select(Image).where(*where).order_by(Image.id)).all()


def release_with(store, run, head):
    """A release of the run's backbone with another head, as if it were in use."""
    names = {**{name: run.parts[name] for name in PARTS}, "head": store.blobs.put([head])[0]}
    parts = {name: PartSpec(sha256=one, size=len(store.blobs.read(one))) for name, one in names.items()}
    model = ModelSpec(classes=CLASSES, golden_probabilities=run.golden_probabilities, **parts)
    with store.write() as session:
        session.add(
            Release(
                project="cells",
                number=1,
                created_at=NOW,
                expires_at=NOW,
                envelope=b"",
                model=msgspec.to_builtins(model),
            )
        )


def wrong_head(store, run):
    """A head that learned every label the wrong way round."""
    rows = all_images(store, Image.split == "train")
    vectors = embed.load(store, run.parts["backbone"], [one.id for one in rows])
    x = np.stack([vectors[one.id] for one in rows])
    y = np.array([1 - CLASSES.index(one.label) for one in rows])
    return export_head(train_head(x, y, 2, QUICK, lambda _: None).head)


# -- what is trained on


def test_the_snapshot_is_what_is_labelled_in_its_split(store):
    rows = [
        add_image(store, b"1", label="good", decided=True, split="train"),
        add_image(store, b"2", label="defect", decided=True, split="holdout"),
        add_image(store, b"3", label="defect", decided=True),
    ]
    add_image(store, b"4", decided=True)  # skipped
    add_image(store, b"5")
    add_image(store, b"6", label="crack", decided=True)  # a class that the project no longer has
    add_image(store, b"7", label="good", decided=True, state="unreadable")
    add_image(store, b"8", label="good", decided=True, project="welds")
    assert snapshot(store, "cells", CLASSES).ids == [], "nothing has a side yet"
    divide(store)
    got = snapshot(store, "cells", CLASSES)
    assert got.ids == rows
    assert got.labels.tolist() == [0, 1, 1]
    assert got.holdout.tolist() == [False, True, False]
    assert got.since.tolist() == [0, 1, 0]


def test_the_snapshots_name_changes_with_images_labels_and_side_only(store):
    first = add_image(store, b"1", label="good", decided=True)
    add_image(store, b"2", label="good", decided=True)
    divide(store)
    names = [snapshot(store, "cells", CLASSES).sha256]

    def change(table=Image, **fields):
        with store.write() as session:
            row = session.get(table, first)
            row.sqlmodel_update(fields)
            session.add(row)
        names.append(snapshot(store, "cells", CLASSES).sha256)

    change(flags={"dark": 0.1}, camera="site/cam-7")
    assert names[0] == names[1]
    change(label="defect")
    change(Assignment, side="holdout")
    change(label="good")
    change(Assignment, side="train")
    assert names[5] == names[0]
    assert len(set(names)) == 4


def test_held_out_bytes_that_come_again_from_the_field_are_not_trained_on(store):
    held = add_image(store, b"same", label="good", decided=True, split="holdout")
    add_image(store, b"same", label="defect", decided=True)
    add_image(store, b"same", label="defect", decided=True, split="train")
    other = add_image(store, b"other", label="defect", decided=True)
    divide(store)
    got = snapshot(store, "cells", CLASSES)
    assert got.ids == [held, other]
    assert got.holdout.tolist() == [True, False]
    assert got.left_out == 2


# -- a whole run, on the real backbone


def test_the_first_run_makes_a_model_that_works(learned):
    settings, store = learned
    run = get_run(store, 1)
    assert (run.state, run.verdict, run.progress, run.step, run.error) == ("done", "first", 1.0, "done", "")
    assert (run.train_images, run.holdout_images, run.labels, run.lease_until) == (16, 44, 0, None)
    assert run.evaluation["n"] == 44
    assert run.evaluation["auc"]["value"] > 0.95
    assert run.pid == os.getpid()
    assert run.versions["torch"]
    assert (run.versions["opencv"], run.versions["device"]) == (cv2.__version__, "cpu")
    assert run.snapshot == snapshot(store, "cells", CLASSES).sha256
    assert len(run.curve) > 1
    assert np.shape(run.golden_probabilities) == (4, 2)
    assert len(decode_references(store.blobs.read(run.parts["references"]), 1280)) == 16 // 4
    backbone, head = (Part(store.blobs.read(run.parts[one]), name=one) for one in ("backbone", "head"))
    model = Model(backbone, head, CLASSES, settings.project.preprocess)
    for seed in (70_001, 70_002):
        for label in (0, 1):
            assert model.predict(decode(picture(seed, defect=bool(label)))).best == label


def test_the_same_data_again_is_the_same_model_and_no_better(learned, clock):
    settings, store = learned
    first = get_run(store, 1)
    release_with(store, first, store.blobs.read(first.parts["head"]))
    execute(settings, store, queue(store), clock)
    second = get_run(store, 2)
    assert (second.verdict, second.against) == ("same", 1)
    assert second.parts == first.parts, "byte for byte: a camera has nothing to fetch"
    assert second.before == second.evaluation
    assert (second.comparison["fixed"], second.comparison["broken"]) == ([], [])


def test_a_model_that_is_right_where_the_old_one_was_wrong_is_better(learned, clock):
    settings, store = learned
    first = get_run(store, 1)
    release_with(store, first, wrong_head(store, first))
    execute(settings, store, queue(store), clock)
    run = get_run(store, 2)
    assert (run.verdict, run.against) == ("better", 1)
    held = {one.id for one in all_images(store, Image.split == "holdout")}
    assert set(run.comparison["fixed"]) <= held, "ids of images, for the page to show"
    assert len(run.comparison["fixed"]) > 40
    assert run.before["auc"]["value"] < 0.1 < run.evaluation["auc"]["value"]
    assert run.parts["golden"] == first.parts["golden"]
    assert run.parts["references"] == first.parts["references"]


def test_a_model_that_learned_nonsense_is_worse(learned, clock):
    settings, store = learned
    first = get_run(store, 1)
    release_with(store, first, store.blobs.read(first.parts["head"]))
    with store.write() as session:
        for row in session.exec(select(Image).where(Image.split == "train")).all():
            row.label = CLASSES[1 - CLASSES.index(row.label)]
            session.add(row)
    execute(settings, store, queue(store), clock)
    assert get_run(store, 2).verdict == "worse"


def test_without_a_holdout_nothing_is_claimed(learned, clock):
    settings, store = learned
    with store.write() as session:
        for row in session.exec(select(Image).where(Image.split == "holdout")).all():
            row.label = None
            session.add(row)
    execute(settings, store, queue(store), clock)
    run = get_run(store, 2)
    assert (run.state, run.verdict) == ("done", "not enough data")
    assert "import one with --split holdout" in run.reason


def test_images_from_the_field_are_embedded_trained_on_and_counted(learned, clock):
    settings, store = learned
    new = add_image(store, picture(5001, defect=True), label="defect", decided=True)
    held = all_images(store, Image.split == "holdout")[0]
    add_image(store, store.blobs.read(held.sha256), label="defect", decided=True)
    lost = add_image(store, label="good", decided=True)  # its blob is gone
    execute(settings, store, queue(store), clock)
    run = get_run(store, 2)
    assert run.state == "done"
    assert (run.train_images, run.holdout_images, run.left_out) == (17, 44, 1), "not the held-out bytes"
    assert run.labels == 1, "labels from the field that it could use"
    with store.read() as session:
        assert session.get(Embedding, (new, run.parts["backbone"])) is not None
        assert session.get(Embedding, (lost, run.parts["backbone"])) is None


# -- what a verdict is worth


def audits(store, count, start, **fields):
    """Labelled audit images, half of them with a defect."""
    return [
        add_image(
            store,
            picture(start + one, defect=one % 2 == 1),
            label=CLASSES[one % 2],
            decided=True,
            why="audit",
            probability=0.01,
            **fields,
        )
        for one in range(count)
    ]


def looked_at(store, images, dark):
    """As `verify` leaves them."""
    with store.write() as session:
        for one in images:
            row = session.get(Image, one)
            row.flags = {"dark": 0.9} if one in dark else {}
            session.add(row)
            session.add(Look(image_id=one, bits=b"", up=0.0, down=0.0, view=b"", sharp=b"", soft=b""))


def side_of(store, image):
    with store.read() as session:
        found = session.get(Assignment, image)
        return None if found is None else (found.side, found.since)


def test_audit_images_extend_the_holdout_and_every_score_names_the_version(learned, clock):
    settings, store = learned
    first = get_run(store, 1)
    assert (first.holdout, first.reason) == (1, "there is no release to compare with; measured on holdout version 1")
    release_with(store, first, wrong_head(store, first))
    new = audits(store, 12, 9000)
    looked_at(store, new, dark=new[::3])
    execute(with_split(settings, share=0.5), store, queue(store), clock)
    run = get_run(store, 2)
    held = [one for one in new if side_of(store, one) == ("holdout", 2)]
    assert {side_of(store, one) for one in new} == {("holdout", 2), ("train", 0)}
    assert (run.holdout, run.holdout_images, run.train_images) == (2, 44 + len(held), 16 + 12 - len(held))
    assert "images of holdout version 2 AUC went from" in run.reason
    assert (run.verdict, run.doubt) == ("better", "")
    assert {one["name"]: one["n"] for one in run.slices if one["kind"] == "camera"} == {
        "imported": 44,
        "site/cam-1": len(held),
    }
    dark = len(set(held) & set(new[::3]))
    assert 0 < dark < len(held)
    assert {one["name"]: one["n"] for one in run.slices if one["kind"] == "condition"} == {
        "dark": dark,
        "nothing found": len(held) - dark,
    }, "nobody looked at the imported ones"


def with_split(settings, **fields):
    return msgspec.structs.replace(settings, split=SplitSettings(**fields))


def test_a_worn_holdout_decides_nothing_until_fresh_audit_images_do(learned, clock):
    settings, store = learned
    settings = with_split(settings, share=1, max_verdicts=1, min_per_class=3)
    first = get_run(store, 1)
    release_with(store, first, wrong_head(store, first))
    for verdict, reason in (("better", "of holdout version 1 AUC"), ("not enough data", "1 is worn after 1 verdicts")):
        execute(settings, store, number := queue(store), clock)
        assert get_run(store, number).verdict == verdict
        assert reason in get_run(store, number).reason
    assert get_run(store, 3).comparison["verdict"] == "not enough data"
    audits(store, 4, 9000)
    execute(settings, store, queue(store), clock)
    run = get_run(store, 4)
    assert "class good has 2 fresh images of holdout version 2, every class needs 3" in run.reason
    assert (run.verdict, run.comparison["n"], run.evaluation["n"]) == ("not enough data", 4, 48)
    fresh = audits(store, 4, 9100)
    execute(settings, store, queue(store), clock)
    run = get_run(store, 5)
    assert run.verdict == "better"
    assert "on 8 fresh images of holdout version 3" in run.reason
    assert set(fresh) & set(run.comparison["fixed"])
    assert min(run.comparison["fixed"]) > 60, "none of the worn ones decided"


def test_a_run_leaves_references_for_drift(learned, clock):
    settings, store = learned
    settings = msgspec.structs.replace(settings, drift=DriftSettings(block=20))
    backbone = get_run(store, 1).parts["backbone"]
    for camera, count in (("site/a", 21), ("site/b", 19)):
        for one in range(count):
            add_vector(
                store,
                add_image(store, camera=camera, why="audit"),
                np.random.default_rng(one).normal(size=1280).tolist(),
                backbone,
            )
    execute(settings, store, queue(store), clock)
    with store.read() as session:
        rows = {one.camera: one.data for one in session.exec(select(Reference).where(Reference.run_id == 2))}
    assert set(rows) == {"basis", "", "site/a"}
    samples = {one: msgspec.msgpack.decode(rows[one], type=Sample) for one in ("", "site/a")}
    assert {name: (len(one.scores), one.projections.shape) for name, one in samples.items()} == {
        "": (44, (44, 32)),
        "site/a": (21, (21, 32)),
    }
    assert samples[""].classes.count("good") in range(19, 26), "as its model says"


def test_labels_that_the_run_does_not_believe_are_kept_for_a_second_look(learned, clock):
    """One good part is called a defect: the other ones say so, and no held-out image is ever doubted."""
    settings, store = learned
    wrong = add_image(store, picture(6001), label="defect", decided=True)
    run = queue(store)
    execute(settings, store, run, clock)
    with store.read() as session:
        found = session.exec(select(Suspect).where(Suspect.run_id == run).order_by(col(Suspect.confidence))).all()
        held = set(session.exec(select(Image.id).where(Image.split == "holdout")))
    assert (found[0].image_id, found[0].label, found[0].guess) == (wrong, "defect", "good")
    assert found[0].confidence < 0.5
    assert not held & {one.image_id for one in found}


# -- how a run ends


def test_without_images_the_row_says_what_to_do(settings, store, clock):
    number = queue(store)
    with pytest.raises(TrainError, match="no labelled images"):
        execute(settings, store, number, clock)
    run = get_run(store, number)
    assert (run.state, run.ended_at) == ("failed", clock.utc())
    assert "hone-hub import FOLDER" in run.error


def test_too_few_of_a_class_fail_with_the_reason(learned, clock):
    settings, store = learned
    with store.write() as session:
        for row in session.exec(select(Image).where(Image.split == "train", Image.label == "defect")).all()[1:]:
            row.label = None
            session.add(row)
    with pytest.raises(TrainError):
        execute(settings, store, queue(store), clock)
    assert "every class needs at least 2 labelled images: class 1 has 1" in get_run(store, 2).error


def test_a_run_that_does_not_exist(settings, store, clock):
    with pytest.raises(TrainError, match="run 77: does not exist"):
        execute(settings, store, 77, clock)


@pytest.mark.parametrize("state", ["cancelled", "done", "failed"])
def test_a_run_that_has_ended_is_not_taken_up(settings, store, clock, state):
    number = queue(store)
    with store.write() as session:
        run = session.get(Run, number)
        run.state = state
        session.add(run)
    with pytest.raises(RunCancelledError):
        execute(settings, store, number, clock)
    assert (get_run(store, number).state, get_run(store, number).pid) == (state, None)


def test_a_cancelled_run_stops_at_its_next_step_and_stays_cancelled(learned, clock, monkeypatch):
    settings, store = learned
    seen = []

    def cancelling(x, y, classes, train, progress, **more):
        def told(one):
            seen.append(one.step)
            if len(seen) == 1:
                with store.write() as session:
                    run = session.get(Run, 2)
                    run.state = "cancelled"
                    session.add(run)
            progress(one)

        return train_head(x, y, classes, train, told, **more)

    monkeypatch.setattr(hub.run, "train_head", cancelling)
    with pytest.raises(RunCancelledError):
        execute(settings, store, queue(store), clock)
    run = get_run(store, 2)
    assert (run.state, run.parts, run.error) == ("cancelled", {}, "")
    assert len(seen) == 1


def test_while_it_runs_the_row_carries_a_lease_that_is_renewed(learned, clock, monkeypatch):
    settings, store = learned
    seen = []

    def slow(*args, **more):
        seen.append(get_run(store, 2))
        clock.advance(20)
        expected = clock.utc() + LEASE
        wait_until(lambda: get_run(store, 2).lease_until == expected, "the renewed lease", seconds=20)
        return train_head(*args, **more)

    monkeypatch.setattr(hub.run, "train_head", slow)
    execute(settings, store, queue(store), clock)
    assert (seen[0].state, seen[0].pid, seen[0].step) == ("running", os.getpid(), "training")
    assert seen[0].lease_until == clock.utc() - timedelta(seconds=20) + LEASE
    run = get_run(store, 2)
    assert (run.state, run.lease_until, run.ended_at) == ("done", None, clock.utc())


def test_embeddings_that_are_there_are_not_computed_again(learned, clock, monkeypatch):
    settings, store = learned
    with store.read() as session:
        count = len(session.exec(select(Embedding.image_id).where(col(Embedding.backbone) != "")).all())
    assert count == 60
    monkeypatch.setattr(embed, "to_input", lambda *_: pytest.fail("computed again"))
    execute(settings, store, queue(store), clock)
    add_vector(store, 1, [0.0], backbone="another")
    assert get_run(store, 2).state == "done"


# -- again, resumed, and other kinds of training


def with_train(settings, **change):
    return msgspec.structs.replace(settings, train=msgspec.structs.replace(settings.train, **change))


MLP = {"kind": "mlp", "epochs": 4, "hidden": 16, "patience": 4}


@pytest.mark.parametrize("change", [{}, MLP], ids=["linear", "mlp"])
def test_a_run_is_repeated_from_its_row_bit_by_bit(learned, clock, change):
    settings, store = learned
    execute(with_train(settings, **change, seed=3), store, queue(store), clock)
    first = get_run(store, 2)
    new = add_image(store, picture(7000), label="good", decided=True)
    with store.write() as session:
        row = session.exec(select(Image).where(Image.split == "train")).first()
        row.label = "defect" if row.label == "good" else "good"
        session.add(row)
    number = again(settings, store, 2, clock)
    execute(settings, store, number, clock)
    run = get_run(store, number)
    assert (run.parts, run.snapshot, run.settings) == (first.parts, first.snapshot, first.settings)
    assert run.fit["oof_log_loss"] == first.fit["oof_log_loss"]
    assert run.why == "run 2 again"
    execute(with_train(settings, **change, seed=3), store, queue(store), clock)
    fresh = get_run(store, number + 1)
    assert (fresh.snapshot != run.snapshot, fresh.parts["head"] != run.parts["head"]) == (True, True)
    assert new in snapshot(store, "cells", CLASSES).ids


def test_a_repeated_run_keeps_its_sides_its_holdout_and_its_doubt(learned, clock):
    settings, store = learned
    first = get_run(store, 1)
    audits(store, 4, 9000)
    execute(with_split(settings, share=1), store, queue(store), clock)
    with store.write() as session:
        moved = session.get(Assignment, all_images(store, Image.split == "train")[0].id)
        moved.side = "out"
        run = session.get(Run, 1)
        run.doubt = "near-copies"
        session.add_all([moved, run])
    number = again(settings, store, 1, clock)
    execute(with_split(settings, share=1), store, number, clock)
    run = get_run(store, number)
    assert (get_run(store, 2).holdout, get_run(store, 2).holdout_images) == (2, 48)
    assert (run.holdout, run.holdout_images, run.train_images) == (1, 44, 16)
    assert (run.parts, run.snapshot, run.doubt) == (first.parts, first.snapshot, "near-copies")
    assert run.evaluation == first.evaluation


def test_a_repeated_run_has_the_golden_part_and_the_references_of_its_day(learned, clock):
    settings, store = learned
    first = get_run(store, 1)
    part = Part(store.blobs.read(first.parts["backbone"]), name="backbone")
    golden = golden_part([decode(picture(70_001))], part, settings.project.preprocess)
    rows = decode_references(store.blobs.read(first.parts["references"]), 1280)
    other = dict(zip(("golden", "references"), store.blobs.put([golden, encode_references(rows[::-1])]), strict=True))
    old = Run(parts={**first.parts, **other}, golden_probabilities=first.golden_probabilities)
    release_with(store, old, store.blobs.read(first.parts["head"]))
    with store.write() as session:
        release = session.exec(select(Release)).one()
        spec = PartSpec(sha256=other["references"], size=len(store.blobs.read(other["references"])))
        release.model = {**release.model, "references": msgspec.to_builtins(spec)}
        session.add(release)
    execute(settings, store, fresh := queue(store), clock)
    assert get_run(store, fresh).parts == old.parts, "a new run takes over what is released"
    execute(settings, store, number := again(settings, store, 1, clock), clock)
    run = get_run(store, number)
    assert run.parts == first.parts
    assert run.golden_probabilities == first.golden_probabilities


def test_parts_of_a_repeated_run_that_are_gone_are_made_anew(learned, clock):
    settings, store = learned
    first = get_run(store, 1)
    for name in ("golden", "references"):
        store.blobs.path(first.parts[name]).unlink()
    execute(settings, store, number := again(settings, store, 1, clock), clock)
    assert get_run(store, number).parts == first.parts, "by the same data, so they are the same"


def test_what_cannot_be_repeated_is_told(learned, clock):
    settings, store = learned
    with pytest.raises(TrainError, match="run 9: does not exist"):
        again(settings, store, 9, clock)
    classes = msgspec.structs.replace(settings.project, classes=["good", "defect", "crack"])
    with pytest.raises(TrainError, match=r"run 1: had another project\.classes"):
        again(msgspec.structs.replace(settings, project=classes), store, 1, clock)
    store.blobs.path(get_run(store, 1).snapshot).unlink()
    with pytest.raises(TrainError, match="run 1: did not keep its data"):
        again(settings, store, 1, clock)


def test_a_run_that_was_interrupted_goes_on_from_its_checkpoint_with_its_own_data(
    learned, clock, monkeypatch, tmp_path
):
    class Killed(BaseException):
        pass

    settings, store = learned
    settings = msgspec.structs.replace(with_train(settings, **MLP), cache=str(tmp_path / "cache"))
    shutil.copytree(CACHE, tmp_path / "cache")
    monkeypatch.setattr(hub.checkpoint, "EVERY_S", 0)
    told = Story.told

    def killed(self, progress):
        told(self, progress)
        if progress.step == 3:
            raise Killed

    monkeypatch.setattr(Story, "told", killed)
    number = queue(store)
    with pytest.raises(Killed):
        execute(settings, store, number, clock)
    before = get_run(store, number)
    assert before.state == "running"
    assert before.fit["eta_s"] >= 0
    assert list((tmp_path / "cache").glob("*.checkpoint"))
    seen = []
    monkeypatch.setattr(Story, "told", lambda self, progress: (seen.append(progress.step), told(self, progress)))
    add_image(store, picture(7000), label="good", decided=True)  # labelled meanwhile: for the next run
    execute(settings, store, number, clock)
    run = get_run(store, number)
    assert seen[0] == 3
    assert (run.state, run.snapshot, run.train_images) == ("done", before.snapshot, 16)
    assert not list((tmp_path / "cache").glob("*.checkpoint"))


def test_a_cancelled_run_is_resumed_from_its_checkpoint_with_its_own_data_and_settings(
    learned, clock, monkeypatch, tmp_path
):
    settings, store = learned
    settings = msgspec.structs.replace(with_train(settings, **MLP), cache=str(tmp_path / "cache"))
    shutil.copytree(CACHE, tmp_path / "cache")
    monkeypatch.setattr(hub.checkpoint, "EVERY_S", 0)
    runs, told, seen = Runs("cells", tmp_path / "hub.toml", tmp_path, store, clock), Story.told, []

    def cancelling(self, progress):
        told(self, progress)
        seen.append(progress.step)
        if progress.step == 3:
            runs.cancel(number)
            self._lease.write()

    monkeypatch.setattr(Story, "told", cancelling)
    number = queue(store)
    with pytest.raises(RunCancelledError):
        execute(settings, store, number, clock)
    cancelled = get_run(store, number)
    with store.read() as session:
        assert cancelled.snapshot in named.parts(session), "neither backup nor fsck may forget its data"
    add_image(store, picture(7000), label="good", decided=True)
    resume(settings, store, number)
    row = get_run(store, number)
    assert (row.state, row.attempts, row.ended_at, row.pid) == ("queued", 0, None, None)
    seen.clear()
    monkeypatch.setattr(Story, "told", lambda self, progress: (seen.append(progress.step), told(self, progress)))
    execute(with_train(settings, seed=5), store, number, clock)
    run = get_run(store, number)
    assert seen[0] == 3
    assert (run.state, run.snapshot, run.settings["seed"]) == ("done", cancelled.snapshot, 0)


def test_a_failed_run_is_resumed_and_what_cannot_be_is_told(learned, clock):
    settings, store = learned
    number = queue(store)
    with store.write() as session:
        run = session.get(Run, number)
        run.sqlmodel_update({"state": "failed", "error": "no room", "attempts": 3, "ended_at": NOW})
        session.add(run)
    resume(settings, store, number)
    assert (get_run(store, number).state, get_run(store, number).error) == ("queued", "")
    with pytest.raises(TrainError, match=f"run {number}: cannot be resumed.*It is queued"):
        resume(settings, store, number)
    with pytest.raises(TrainError, match=r"run 1: cannot be resumed.*It is done"):
        resume(settings, store, 1)
    with pytest.raises(TrainError, match="run 9: does not exist"):
        resume(settings, store, 9)
    with store.write() as session:
        run = session.get(Run, 1)
        run.state = "cancelled"
        session.add(run)
    classes = msgspec.structs.replace(settings.project, classes=["good", "defect", "crack"])
    with pytest.raises(TrainError, match=r"run 1: had another project\.classes"):
        resume(msgspec.structs.replace(settings, project=classes), store, 1)
    store.blobs.path(get_run(store, 1).snapshot).unlink()
    with pytest.raises(TrainError, match="run 1: did not keep its data"):
        resume(settings, store, 1)
    assert get_run(store, 1).state == "cancelled"


def test_old_checkpoints_go_when_no_run_is_under_way_and_the_last_ones_stay(settings, store, clock):
    cache = settings.cache_folder
    cache.mkdir()
    names = [f"run-{number}.checkpoint" for number in range(8)] + ["run-8.checkpoint.tmp"]
    for age, name in enumerate(names):
        (cache / name).write_bytes(b"state")
        at = clock.utc().timestamp() - age * 2 * 86_400
        os.utime(cache / name, (at, at))
    (cache / "backbone.tflite").write_bytes(b"model")
    os.utime(cache / "backbone.tflite", (0, 0))
    runs, busy = Runs("cells", cache / "none.toml", cache, store, clock), queue(store)
    with store.write() as session:
        run = session.get(Run, busy)
        run.state, run.lease_until = "running", clock.utc() + LEASE
        session.add(run)
    runs.supervise()
    assert len(list(cache.iterdir())) == 10, "its checkpoint may be any of them"
    runs.cancel(busy)
    runs.supervise()
    assert {one.name for one in cache.iterdir()} == {*names[:4], "backbone.tflite"}, "those of the last 7 days"
    for number in range(20, 30):
        (cache / f"run-{number}.checkpoint").write_bytes(b"state")
        os.utime(cache / f"run-{number}.checkpoint", (at, clock.utc().timestamp() - number))
    runs.supervise()
    assert len(list(cache.glob("*.checkpoint"))) == 14, "it does not look at every turn"
    clock.advance(3601)
    runs.supervise()
    left = {f"run-{number}.checkpoint" for number in range(20, 24)}
    assert {one.name for one in cache.glob("*.checkpoint")} == {*left, names[0]}


def test_a_process_that_has_not_seen_its_end_loses_a_run_that_was_resumed(learned, clock):
    settings, store = learned
    runs, number = Runs("cells", settings.state_folder / "hub.toml", settings.cache_folder, store, clock), queue(store)
    with Lease(store, number, clock) as lease:
        runs.cancel(number)
        resume(settings, store, number)
        with pytest.raises(RunCancelledError):
            lease.write(progress=0.9)
    assert (get_run(store, number).state, get_run(store, number).progress) == ("queued", 0)


def test_fine_tuned_blocks_are_a_new_backbone_with_embeddings_of_all_images(learned, clock):
    settings, store = learned
    waiting = add_image(store, picture(7000))
    change = {"kind": "blocks", "blocks": 1, "epochs": 1, "batch_size": 8}
    execute(with_train(settings, **change), store, queue(store), clock)
    first, run = get_run(store, 1), get_run(store, 2)
    assert (run.state, run.verdict) == ("done", "first")
    assert run.parts["backbone"] != first.parts["backbone"]
    with store.read() as session:
        rows = session.exec(select(Embedding.image_id).where(Embedding.backbone == run.parts["backbone"])).all()
    assert len(rows) == 61
    assert waiting in rows
    assert run.evaluation["auc"]["value"] > 0.9
    assert (run.fit["epochs"], run.settings["kind"]) == (1, "blocks")
    model = model_of(run, store)
    parts = {name: Part(store.blobs.read(getattr(model, name).sha256), name=name) for name in ("backbone", "head")}
    golden = decode_golden(store.blobs.read(model.golden.sha256))
    check(
        Model(parts["backbone"], parts["head"], CLASSES, settings.project.preprocess),
        golden,
        model.golden_probabilities,
        model.tolerances,
    )


def test_ones_own_backbone_is_taken_as_it_is(learned, clock, tmp_path):
    settings, store = learned
    path = tmp_path / "own.tflite"
    path.write_bytes(mean_backbone(224))
    execute(with_train(settings, backbone=str(path)), store, queue(store), clock)
    run = get_run(store, 2)
    assert store.blobs.read(run.parts["backbone"]) == path.read_bytes()
    assert Part(store.blobs.read(run.parts["head"]), name="head").input_shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("none.tflite", None, (ConfigError, r"train\.backbone: .*none\.tflite cannot be read")),
        ("other.tflite", mean_backbone(64), (ModelError, r"takes \(1, 64, 64, 3\)")),
        ("broken.tflite", b"nonsense", (PartError, "does not load")),
        ("broken.pt2", b"nonsense", (ModelError, "is no exported torch program")),
    ],
)
def test_a_backbone_that_is_none_is_told(learned, clock, tmp_path, *, name, data, error):
    settings, store = learned
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error[0], match=error[1]):
        execute(with_train(settings, backbone=str(tmp_path / name)), store, queue(store), clock)
    assert get_run(store, 2).state == "failed"


def test_thresholds_travel_in_the_model_and_decide_the_label(learned, clock):
    settings, store = learned
    execute(with_train(settings, costs={"defect": 9.0}), store, queue(store), clock)
    run = get_run(store, 2)
    assert run.fit["thresholds"] == pytest.approx([0.9, 0.1])
    assert run.fit["oof_recall"].keys() == set(CLASSES)
    model = model_of(run, store)
    assert model.thresholds == run.fit["thresholds"]
    assert model_of(get_run(store, 1), store).thresholds == []
    with store.write() as session:  # so that the model is sure of nothing
        for image in session.exec(select(Image).where(Image.split == "train")):
            if image.id % 4 == 0:
                image.label = CLASSES[image.label == CLASSES[0]]
    execute(with_train(settings, costs={"defect": 1e9}), store, queue(store), clock)
    [[good, alarms], [missed, found]] = get_run(store, 3).evaluation["confusion"]
    assert (good, missed) == (0, 0), "called defect, all of them, as cameras would"
    assert min(alarms, found) > 0


def test_near_copies_are_not_on_both_sides_of_a_fold(learned, clock, monkeypatch):
    settings, store = learned
    trained = all_images(store, Image.split == "train")
    copies = [one.id for one in trained if one.label == "good"][:3]
    with store.write() as session:
        for one in copies:
            row = session.get(Assignment, one)
            row.near = "0" * 64
            session.add(row)
    seen = {}

    def grouped(x, y, classes, train, progress, *, near):
        seen["near"] = near
        return train_head(x, y, classes, train, progress, near=near)

    monkeypatch.setattr(hub.run, "train_head", grouped)
    execute(settings, store, number := queue(store), clock)
    groups = dict(zip([one.id for one in trained], seen["near"].tolist(), strict=True))
    assert len({groups[one] for one in copies}) == 1
    assert len(set(groups.values())) == 14
    first = get_run(store, number)
    with store.write() as session:
        for one in copies:
            row = session.get(Assignment, one)
            row.near = str(one).rjust(64, "0")
            session.add(row)
    execute(settings, store, repeated := again(settings, store, number, clock), clock)
    assert get_run(store, repeated).parts == first.parts, "with the groups of its day"


def test_the_row_names_the_gpu_that_a_training_uses(learned, clock, monkeypatch):
    import torch

    settings, store = learned
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")

    def trained(*_, **__):
        raise TrainError("enough")

    monkeypatch.setattr(hub.mlp, "train_mlp", trained)
    for number, (change, device) in enumerate([({}, "cuda NVIDIA H200"), ({"device": "cpu"}, "cpu")], 2):
        with pytest.raises(TrainError, match="enough"):
            execute(with_train(settings, **MLP, **change), store, queue(store), clock)
        assert get_run(store, number).versions["device"] == device


def test_a_share_of_the_images(learned, clock):
    settings, store = learned
    execute(with_train(settings, images=10), store, queue(store), clock)
    run = get_run(store, 2)
    assert (run.train_images, run.holdout_images) == (10, 44)
