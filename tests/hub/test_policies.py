"""What is in force: the project's own over hub.toml over the defaults, kept with all that was ever changed."""

import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from sqlmodel import select

from hub.policies import Policies
from hub.settings import HubSettings, ProjectSettings, RetrainSettings, TrainSettings
from hub.store import Store, open_store
from hub.tables import ProjectSetting
from shared.errors import SettingError
from shared.policy import TriageSettings
from tests.fakes.clock import FakeClock
from tests.hub.making import settings_in


@pytest.fixture
def file(tmp_path: Path) -> HubSettings:
    return settings_in(tmp_path, train=TrainSettings(folds=3), retrain=RetrainSettings())


@pytest.fixture
def policies(file: HubSettings, store: Store, clock: FakeClock) -> Policies:
    return Policies(file, store, clock)


def rows(store: Store) -> list[tuple[int, str, object, bool, str]]:
    with store.read() as session:
        found = session.exec(select(ProjectSetting).order_by(ProjectSetting.id))  # type: ignore[arg-type]
        return [(one.version, one.key, one.value, one.cleared, one.operator) for one in found]


def test_the_projects_own_goes_over_the_file_over_the_default(policies: Policies, file: HubSettings) -> None:
    assert policies.now() == file
    found = policies.change({"train": {"folds": 7}, "rollout": {"canary": 2}}, operator="Mira")
    assert (found.settings.train.folds, found.settings.rollout.canary, found.version) == (7, 2, 1)
    sources = {key: found.source(key, file) for key in ("train.folds", "train.seed", "rollout.canary")}
    assert sources == {"train.folds": "project", "train.seed": "default", "rollout.canary": "project"}
    back = policies.change({"train": {"folds": None}}, operator="Mira")
    assert (back.settings.train.folds, back.settings.rollout.canary) == (3, 2)
    assert back.source("train.folds", file) == "hub.toml"


def test_history_is_appended_and_a_change_that_changes_nothing_is_none(
    policies: Policies, store: Store, clock: FakeClock
) -> None:
    policies.set({"train.folds": 7, "train.seed": 1}, operator="Mira")
    clock.advance(60)
    policies.set({"train.folds": 7}, operator="Jo")
    policies.set({"train.folds": None, "train.seed": 2, "train.threads": None}, operator="Jo")
    assert rows(store) == [
        (1, "train.folds", 7, False, "Mira"),
        (1, "train.seed", 1, False, "Mira"),
        (2, "train.folds", None, True, "Jo"),
        (2, "train.seed", 2, False, "Jo"),
    ]
    first, *_, last = reversed(policies.history(10))
    assert last.changed_at - first.changed_at == timedelta(seconds=60)
    assert [one.key for one in policies.history(1)] == ["train.seed"]


def test_all_or_nothing_and_all_that_is_wrong_is_told(policies: Policies, store: Store, file: HubSettings) -> None:
    with pytest.raises(SettingError) as caught:
        policies.change({"train": {"folds": 7, "seed": -1}, "triage": {"audit": 2}}, operator="Mira")
    assert set(caught.value.fields) == {"train.seed", "triage.audit"}
    assert rows(store) == []
    assert policies.now() == file


def test_the_class_of_interest_must_be_one(policies: Policies, store: Store, clock: FakeClock) -> None:
    with pytest.raises(SettingError, match=r"retrain.positive is 'crack'; allowed: one of good, defect"):
        policies.set({"retrain.positive": "crack"}, operator="")
    policies.set({"retrain.positive": "defect", "retrain.every_positives": 5}, operator="")
    three = msgspec.structs.replace(
        policies.file, project=ProjectSettings(name="cells", classes=["good", "crack", "rust"])
    )
    other = Policies(three, store, clock)
    with pytest.raises(SettingError, match=r"retrain.positive must name the class of interest"):
        other.set({"retrain.every_positives": 6, "retrain.positive": None}, operator="")


def test_a_backbone_is_looked_for_where_hub_toml_is_and_must_be_there(
    tmp_path: Path, file: HubSettings, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    policies = Policies(msgspec.structs.replace(file, folder=str(tmp_path)), store, clock)
    for name, says in (("nope/none.tflite", "nope/none.tflite', which is no file here"), ("x.onnx", "the ending")):
        with pytest.raises(SettingError, match=says) as caught:
            policies.set({"train.backbone": name}, operator="")
        assert set(caught.value.fields) == {"train.backbone"}
    assert rows(store) == []
    own = tmp_path / "own.tflite"
    own.write_bytes(b"it is looked into by the run")
    assert policies.set({"train.backbone": "own.tflite"}, operator="").settings.train.backbone == str(own)
    assert rows(store)[0][2] == "own.tflite", "the folder may move"
    own.unlink()
    policies.set({"train.seed": 3}, operator="")
    assert policies.now().train.backbone == str(own), "its run fails, and no other backbone is trained"
    assert policies.set({"train.backbone": ""}, operator="").settings.train.backbone == ""


def test_what_would_have_no_effect_is_refused(policies: Policies, store: Store) -> None:
    for values in ({"train.device": "cuda"}, {"train.precision": "mixed"}, {"triage.rare": "crack"}):
        with pytest.raises(SettingError, match="allowed") as caught:
            policies.set(values, operator="")
        assert set(caught.value.fields) == set(values)
    assert rows(store) == []
    policies.set({"train.kind": "mlp", "train.device": "cuda", "train.precision": "mixed"}, operator="")
    with pytest.raises(SettingError, match=r"train.device .* allowed with train.kind linear: auto or cpu"):
        policies.set({"train.kind": "linear"}, operator="")


def test_to_retrain_on_drift_takes_tests_for_drift(policies: Policies, store: Store, clock: FakeClock) -> None:
    policies.set({"retrain.on_drift": True}, operator="")
    with pytest.raises(SettingError, match=r"retrain.on_drift needs tests for drift"):
        policies.set({"drift.false_alarm": 0.0}, operator="")
    policies.set({"retrain.on_drift": False, "drift.false_alarm": 0.0}, operator="")
    # hub.toml changes its mind: the project's own value gives way, and the hub starts.
    asking = msgspec.structs.replace(policies.file, retrain=RetrainSettings(on_drift=True))
    policies.set({"retrain.on_drift": None}, operator="")
    now = Policies(asking, store, clock).now()
    assert (now.retrain.on_drift, now.drift.false_alarm) == (True, 0.01)


def test_every_process_of_the_hub_sees_a_change(
    policies: Policies, file: HubSettings, store: Store, clock: FakeClock
) -> None:
    second = open_store(file)
    other = Policies(file, second, clock)
    assert other.now().train.folds == 3
    policies.set({"train.folds": 5}, operator="")
    assert other.now().train.folds == 5
    assert other.in_force() is other.in_force(), "read once for each version"
    second.close()


def test_two_who_change_at_once_both_count(
    policies: Policies, file: HubSettings, store: Store, clock: FakeClock
) -> None:
    keys = ["train.seed", "rollout.days", "label.batch", "retrain.at_least"]
    others = [Policies(file, store, clock) for _ in keys]
    threads = [
        threading.Thread(target=lambda one=one, key=key: [one.set({key: n}, operator="") for n in range(100, 105)])
        for one, key in zip(others, keys, strict=True)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert policies.in_force().own == {**dict.fromkeys(keys, 104), "train.seed": 104}
    assert sorted(one[0] for one in rows(store)) == list(range(1, 21)), "a version for each"


def test_projects_do_not_see_each_other(policies: Policies, file: HubSettings, store: Store, clock: FakeClock) -> None:
    policies.set({"train.folds": 5}, operator="")
    other = Policies(
        msgspec.structs.replace(file, project=msgspec.structs.replace(file.project, name="other")), store, clock
    )
    assert other.now().train.folds == 3


def test_what_no_longer_fits_is_left_out_and_the_rest_holds(
    policies: Policies, file: HubSettings, store: Store, clock: FakeClock
) -> None:
    policies.set({"retrain.positive": "defect", "train.folds": 5, "retrain.every_labels": 9}, operator="")
    with store.write() as session:  # as an older Hone may have left them
        for key, value in (("train.gone", 1), ("train.seed", -5)):
            session.add(ProjectSetting(project="cells", version=2, key=key, value=value, changed_at=clock.utc()))
    renamed = msgspec.structs.replace(file, project=ProjectSettings(name="cells", classes=["fine", "broken"]))
    found = Policies(renamed, store, clock)
    now = found.now()
    assert (now.train.folds, now.train.seed, now.retrain.positive, now.retrain.every_labels) == (5, 0, "", 9)
    found.set({"train.threads": 2}, operator="")
    assert found.now().train.threads == 2, "and changes go on"


def test_cameras_are_told_only_once_the_project_says_something(policies: Policies) -> None:
    assert policies.now().triage is None
    assert policies.last_change("triage") is None
    policies.set({"triage.low_score": 0.8}, operator="")
    assert policies.now().triage == TriageSettings(), "also where it says the default"
    assert policies.last_change("triage") is not None
    policies.set({"triage.low_score": None}, operator="")
    assert policies.now().triage is None
    by_file = Policies(
        msgspec.structs.replace(policies.file, triage=TriageSettings(audit=0.2)), policies._store, policies._clock
    )
    by_file.set({"triage.low_score": 0.5}, operator="")
    assert by_file.now().triage == TriageSettings(audit=0.2, low_score=0.5)
