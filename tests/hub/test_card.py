"""A model card says what the rows say, and its limitations follow from the data."""

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from hub.card import FEW, Facts, card
from hub.cardtext import escaped, markdown
from hub.dataset import Entry
from hub.evaluate import evaluate
from hub.lineage import Member
from hub.split import Standing
from hub.tables import Release, Run
from shared.manifest import ModelSpec, PartSpec, Variant
from tests.hub.making import CLASSES, NOW

HEX = "ab" * 32


def release(**fields):
    part = PartSpec(sha256=HEX, size=7)
    model = {"backbone": part, "head": part, "golden": part, "classes": CLASSES, **fields.pop("model", {})}
    given = {"project": "cells", "number": 3, "run_id": 5, "created_at": NOW, "expires_at": NOW, "envelope": b""}
    return Release(**{**given, "holdout": 2, "model": msgspec.to_builtins(ModelSpec(**model)), **fields})


def judged(right=(90, 60), of=(100, 100)):
    """The evaluation of a model that calls so many of each class right."""
    labels = np.repeat([0, 1], of)
    hit = np.concatenate([np.arange(n) < ok for ok, n in zip(right, of, strict=True)])
    called = np.where(hit, labels, 1 - labels)
    return msgspec.to_builtins(evaluate(np.eye(2)[called] * 0.9 + 0.05, labels, 50))


def run(**fields):
    given = {"id": 5, "project": "cells", "state": "done", "created_at": NOW, "ended_at": NOW, "snapshot": "cd" * 32}
    settings = {"kind": "linear", "seed": 4, "l2": [0.1], "classes": CLASSES, "preprocess": {}, "backbone": ""}
    evaluation, verdict = judged(), {"against": 2, "verdict": "better", "reason": "AUC went up"}
    return Run(
        **{**given, "settings": settings, "versions": {"hone": "0.1.0"}, "evaluation": evaluation, **verdict, **fields}
    )


def images(camera, label, count, side="train", start=0):
    return [
        (
            Entry(f"{camera}{label}{side}{start + one}", label, side),
            Member(start + one, "", camera, NOW + timedelta(days=one), side),
        )
        for one in range(count)
    ]


PLENTY = [
    one
    for label in CLASSES
    for one in images("site/a", label, 30) + images("site/a", label, 25, "holdout") + images("", label, 3)
]


def facts(pairs=PLENTY, **fields):
    given = {"release": release(), "run": run(), "intended_use": "", "standing": Standing(2, 0, 50, 3, False)}
    entries, members = [one for one, _ in pairs], [one for _, one in pairs]
    more = {"limit": 20, "entries": entries, "members": members, "operators": 2, "cameras": ["site/a"]}
    return Facts(**{**given, **more, **fields})


def limits(*args, **fields):
    return card(facts(*args, **fields)).limitations


def test_the_card_counts_the_images_of_each_camera_and_class():
    made = card(facts())
    assert (made.release, made.run, made.seed, made.classes, made.cameras) == (3, 5, 4, CLASSES, ["site/a"])
    training, holdout = made.data.training, made.data.holdout
    assert (training.images, training.labels) == (66, {"good": 33, "defect": 33})
    assert [(one.camera, one.images, one.labels) for one in training.sources] == [
        ("", 6, {"good": 3, "defect": 3}),
        ("site/a", 60, {"good": 30, "defect": 30}),
    ]
    assert (training.first, training.last) == (NOW, NOW + timedelta(days=29))
    assert (holdout.images, holdout.gone) == (50, 0)
    assert made.figures.n == 200
    assert made.figures.accuracy.value == pytest.approx(0.75)
    assert [one.name for one in made.parts] == ["backbone", "head", "golden"]


def test_what_the_model_is_for_is_what_the_project_says_or_honestly_unstated():
    told = card(facts(intended_use="Finds cracks.\n\nNot for bifacial cells."))
    assert told.stated
    assert told.intended_use.startswith("Finds cracks")
    silent = card(facts())
    assert not silent.stated
    assert "Nobody has stated" in silent.intended_use


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "linear"}, "Linear head on frozen EfficientNet-Lite0"),
        ({"kind": "mlp", "features": "stages"}, "MLP head with one hidden layer on frozen EfficientNet-Lite0"),
        ({"kind": "full"}, "all blocks of it trained along"),
        ({"kind": "blocks", "blocks": 3}, "the last 3 blocks of it trained along"),
        ({"kind": "linear", "backbone": "/srv/secret/mine.tflite"}, "Linear head on frozen backbone mine.tflite"),
    ],
)
def test_the_model_in_words(settings, says):
    made = card(facts(run=run(settings=settings)))
    assert says in made.model
    assert "/srv/secret" not in made.model_dump_json()


def test_a_model_that_is_good_everywhere_has_only_the_limits_that_all_have():
    assert limits(run=run(evaluation=judged((95, 95)))) == [
        "What it learned from cameras is of 2026-03-01 to 2026-03-30 (UTC); it knows nothing of what changed later.",
        "It gives every image one of its labels (good, defect), also one that shows something else.",
    ]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"pairs": images("site/a", "good", FEW) + images("site/a", "defect", FEW - 1)},
            "defect: learned from 19 image",
        ),
        ({"pairs": images("site/a", "good", 30, "holdout")}, "good: learned from 0 images only"),
        ({"pairs": [*PLENTY, (Entry("gone", "good", "train"), None)]}, "1 image of its data are gone"),
        ({"cameras": ["site/b"]}, "No held-out image is from site/b"),
        ({"run": run(doubt="near-copies")}, "Its scores may be wrong: near-copies."),
        ({"run": run(verdict="same", reason="no gain")}, "not proven better than release 2: no gain."),
        ({"run": run(verdict="first")}, "compared with no other model"),
        ({"run": run(evaluation={})}, "Nothing was measured"),
        ({"run": None, "entries": None, "members": []}, "no longer known in detail"),
        (
            {"standing": Standing(2, 0, 50, 20, True)},
            "Holdout version 2 is worn: 20 verdicts went by it, 20 are allowed",
        ),
        ({}, "defect: finds 0.60 of them only; 0.75 of all images are called right."),
        ({}, "Its probabilities are off by 0.20 on average"),
    ],
)
def test_limitations_follow_from_the_data(given, says):
    assert any(says in one for one in limits(given.pop("pairs", PLENTY), **given)), limits(**given)


def test_weak_slices_are_named_and_small_ones_not_judged():
    part = {"kind": "camera", "n": 40, "few": False, "accuracy": {"value": 0.5, "low": 0.35, "high": 0.65}}
    rows = [
        {**part, "name": "site/dim"},
        {**part, "name": "site/fine", "accuracy": {"value": 0.7, "low": 0.55, "high": 0.8}},
        {"kind": "camera", "name": "site/new", "n": 3, "few": True},
    ]
    said = limits(run=run(slices=rows))
    assert "Weak for camera site/dim: 0.50 of 40 images right, 0.75 of all." in said
    assert "Too few held-out images to judge camera site/new." in said
    assert not any("site/fine" in one for one in said)


def test_the_markdown_tells_all_of_it():
    thresholds = {"model": {"thresholds": [0.8, 0.2]}}
    text = markdown(
        card(facts(release=release(note="by hand", **thresholds), intended_use="Finds cracks.\n\nNot more."))
    )
    for wanted in (
        "# Model card: cells, release 3\n",
        "\n## Intended use\n\nFinds cracks.\n\nNot more.\n",
        "multiple of its threshold: good 0.8, defect 0.2",
        "200 images, holdout version 2;",
        "| Accuracy | 0.750 [",
        "| defect | 100 | 0.600 |",
        "| good | 90 | 10 |",
        "| site/a | 30 | 30 | 60 |",
        f"| head | `{HEX}` | 7 |",
        "| seed | 4 |",
        "Cameras that say they run it: site/a",
    ):
        assert wanted in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, a/b-c (d) 0.5", "plain words, a/b-c (d) 0.5"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("[x](javascript:a) ![y](z)", r"\[x\](javascript:a) \!\[y\](z)"),
        ("a | b\n\n# c", r"a \| b \# c"),
        ("https://evil.example www.evil.example", r"https\://evil.example www\.evil.example"),
        ("1. first", r"1\. first"),
        ("- item", r"\- item"),
        ("=== ", r"\==="),
        ("`code` *b* _i_ ~s~ \\ @me", r"\`code\` \*b\* \_i\_ \~s\~ \\ \@me"),
    ],
)
def test_what_users_wrote_is_text(text, shown):
    assert escaped(text) == shown


def test_no_word_of_a_user_becomes_markup_in_the_card():
    nasty = "<img src=x>|`[l](http://e)\n# h"
    spec = {"model": {"classes": [nasty, "defect"]}}
    made = card(
        facts(
            images(f"site/{nasty}", nasty, 3),
            release=release(note=nasty, **spec),
            run=run(reason=nasty, doubt=nasty, versions={nasty: nasty}, settings={nasty: nasty}),
            intended_use=nasty,
            cameras=[nasty],
        )
    )
    text = markdown(made)
    assert "<img" not in text.replace("\\<img", "")
    assert "](http" not in text.replace("\\](http", "")
    assert "\n# h" not in text
    assert datetime.fromisoformat(card(facts()).model_dump(mode="json")["created_at"]) == NOW.astimezone(UTC)


def test_the_int8_variant_stands_beside_the_float_one():
    part = PartSpec(sha256=HEX, size=7)
    variant = Variant(backbone=part, head=part, golden=part)
    both = {**judged(), "int8": judged((80, 60))}
    made = card(
        facts(release=release(model={"int8": variant}), run=run(evaluation=both, fit={"int8": {"left_out": ""}}))
    )
    assert (made.figures.accuracy.value, made.int8.accuracy.value) == (0.75, 0.7)
    assert [one.name for one in made.parts] == [
        "backbone",
        "head",
        "golden",
        *(f"int8 {one}" for one in ("backbone", "head", "golden")),
    ]
    text = markdown(made)
    assert "| Measure | This release | Its int8 variant |" in text
    assert "not part of the release" not in text


def test_a_variant_that_was_left_out_says_why():
    fit = {"int8": {"left_out": "AUC went from 0.9 to 0.6"}}
    made = card(facts(run=run(evaluation={**judged(), "int8": judged((50, 50))}, fit=fit)))
    assert made.int8.accuracy.value == 0.5
    assert "The int8 variant is not part of the release: AUC went from 0.9 to 0.6." in markdown(made)


def test_a_card_without_int8_says_nothing_of_it():
    made = card(facts())
    assert (made.int8, made.int8_left_out) == (None, "")
    assert "int8" not in markdown(made)
