"""A configuration is read whole or refused in one line that names what is wrong."""

from pathlib import Path

import pytest

from hub.settings import HubSettings, ProjectSettings, find_config, read
from shared.errors import ConfigError

GOOD = '[project]\nname = "cells"\nclasses = ["good", "defect"]\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "hub.toml"
    path.write_text(text)
    return path


def test_the_least_configuration_has_every_default(tmp_path):
    got = read(write(tmp_path, GOOD))
    default = HubSettings(project=ProjectSettings(name="cells", classes=["good", "defect"]))
    assert (got.project, got.collect, got.train) == (default.project, default.collect, default.train)
    assert (got.retrain, got.rollout, got.web) == (default.retrain, default.rollout, default.web)
    assert got.mqtt.username == "hub"
    assert got.mqtt.password_file == ""  # an empty path stays empty: it means "none"


def test_folders_and_files_are_taken_from_the_files_own_folder(tmp_path, monkeypatch):
    (tmp_path / "etc").mkdir()
    path = write(tmp_path / "etc", 'state = "../var"\n' + GOOD + '[mqtt]\npassword_file = "pw"\nca = "/abs/ca.pem"\n')
    monkeypatch.chdir("/")
    got = read(path)
    assert got.state_folder.resolve() == tmp_path / "var"
    assert got.cache_folder == tmp_path / "etc" / "cache"
    assert got.mqtt.password_file == str(tmp_path / "etc" / "pw")
    assert got.mqtt.ca == "/abs/ca.pem"
    assert got.database_url == f"sqlite:///{got.state_folder / 'hone.db'}"


def test_a_database_url_is_left_alone(tmp_path):
    assert read(write(tmp_path, 'database = "postgresql://db/hone"\n' + GOOD)).database_url == "postgresql://db/hone"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (GOOD + "[collect]\nimagemb = 3\n", ["imagemb", "$.collect"]),
        ("colect = 1\n" + GOOD, ["colect"]),
        (GOOD + '[web]\nport = "80"\n', ["$.web.port", "int"]),
        (GOOD + "[web]\nport = 70000\n", ["$.web.port"]),
        (GOOD + "[collect]\nbatch = 0\n", ["$.collect.batch"]),
        (GOOD + "[rollout]\nhold_s = 0\n", ["$.rollout.hold_s"]),
        ("beat_s = 0\n" + GOOD, ["$.beat_s"]),
        ("", ["project"]),
        ('[project]\nname = "cells"\nclasses = ["one"]\n', ["$.project.classes"]),
        ('[project]\nname = "cells"\nclasses = ["a", "a"]\n', ["project.classes", "different"]),
        ('[project]\nname = "cells"\nclasses = ["a", ""]\n', ["project.classes", "non-empty"]),
        ('[project]\nname = "a/b"\nclasses = ["a", "b"]\n', ["'a/b'", "project name"]),
        ('name = "hub+"\n' + GOOD, ["'hub+'", "hub name"]),
        (GOOD + '[collect]\ncameras = ["cam-1"]\n', ["'cam-1'", "site/camera"]),
        (GOOD + '[collect]\ncameras = ["a/b/c"]\n', ["'b/c'", "camera name"]),
        (GOOD + "[collect]\nimage_mb = 9\npartial_mb = 8\n", ["collect.partial_mb"]),
        ("[project\n", ["hub.toml"]),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), ["hub.toml"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path, text, names):
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, text))
    assert all(one in str(caught.value) for one in names), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml.*No such file"):
        read(tmp_path / "nowhere.toml")


def test_the_configuration_is_looked_for_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HONE_HUB_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=r"hub\.toml, \.hone/hub\.toml, /etc/hone/hub\.toml"):
        find_config(None)
    (tmp_path / ".hone").mkdir()
    write(tmp_path / ".hone", GOOD)
    assert find_config(None) == Path(".hone/hub.toml")
    write(tmp_path, GOOD)
    assert find_config(None) == Path("hub.toml")
    monkeypatch.setenv("HONE_HUB_CONFIG", "/named/by/environment.toml")
    assert find_config(None) == Path("/named/by/environment.toml")
    assert find_config(Path("given.toml")) == Path("given.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "forest"', r"Invalid enum value 'forest' - at `\$\.train\.kind`"),
        ("dropout = 1.0", r"< 1\.0.*train\.dropout"),
        ("dropout = -0.1", r">= 0\.0.*train\.dropout"),
        ("learning_rate = 0.0", r"> 0\.0.*train\.learning_rate"),
        ("batch_size = 0", r">= 1.*train\.batch_size"),
        ("epochs = 0", r">= 1.*train\.epochs"),
        ("blocks = 17", r"<= 16.*train\.blocks"),
        ("replay = 1.5", r"<= 1\.0.*train\.replay"),
        ("l2 = []", r"length >= 1.*train\.l2"),
        ("l2 = [0.1, 0.0]", r"> 0\.0.*train\.l2\[1\]"),
        ('augment = ["swirl"]', r"Invalid enum value 'swirl'"),
        ('device = "tpu"', r"Invalid enum value 'tpu'"),
        ('precision = "half"', r"Invalid enum value 'half'"),
        ("recall = {defect = 1.5}", r"<= 1\.0.*train\.recall"),
        ("costs = {defect = -1.0}", r">= 0\.0.*train\.costs"),
        ('kind = "full"\nbackbone = "a.tflite"', "train.backbone cannot be fine-tuned, only Lite0 can"),
        (
            'kind = "blocks"\nfeatures = "stages"',
            "train.features is for heads.*; allowed with train.kind blocks: pooled",
        ),
        ('features = "stages"\nbackbone = "a.pt2"', "train.features is for Lite0 only; allowed with a train.backbone"),
        ('features = "all"', r"Invalid enum value 'all'"),
        ('kind = "mlp"\naugment = ["gain"]', "train.augment changes images, and mlp trains on stored embeddings"),
        ('backbone = "a.onnx"', r"train.backbone is 'a.onnx'; allowed: a file with the ending \.tflite or \.pt2"),
        ('device = "cuda"', "train.device is for what torch trains; allowed with train.kind linear: auto or cpu"),
        ('precision = "mixed"', "train.precision is for what torch trains; allowed with train.kind linear: float32"),
        ("costs = {crack = 2.0}", "train.costs names 'crack', which is no class; allowed: good, defect"),
        ("costs = {good = {crack = 2.0}}", "train.costs names 'crack', which is no class"),
        ("costs = {good = {good = 2.0}}", "train.costs says that 'good' called 'good' costs 2; allowed: 0"),
        ("recall = {crack = 0.9}", "train.recall names 'crack', which is no class; allowed: good, defect"),
        ("recall = {defect = 0.9}\ncosts = {defect = 2.0}", "train.recall cannot be combined with train.costs"),
    ],
)
def test_wrong_training_settings_are_told(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        read(write(tmp_path, f"{GOOD}[train]\n{text}\n"))


def test_training_settings_as_a_file_gives_them(tmp_path):
    text = 'kind = "blocks"\naugment = ["flip_horizontal", "gain"]\ncosts = {defect = {good = 5.0}}\n'
    train = read(write(tmp_path, f"{GOOD}[train]\n{text}")).train
    assert (train.augment, train.costs) == (("flip_horizontal", "gain"), {"defect": {"good": 5.0}})
    own = read(write(tmp_path, f'{GOOD}[train]\nbackbone = "models/own.tflite"\n')).train
    assert own.backbone == str(tmp_path / "models" / "own.tflite")
    gpu = read(write(tmp_path, f'{GOOD}[train]\nkind = "mlp"\ndevice = "cuda"\nprecision = "mixed"\n')).train
    assert (gpu.device, gpu.precision) == ("cuda", "mixed")


def test_relative_files_are_looked_for_in_another_folder_where_one_is_named(tmp_path):
    settings = read(write(tmp_path, f'folder = "data"\n{GOOD}[train]\nbackbone = "own.tflite"\n'))
    assert settings.state == str(tmp_path / "data" / "hub")
    assert settings.train.backbone == str(tmp_path / "data" / "own.tflite")


def test_the_class_of_interest_of_triage_must_be_one_also_while_no_strategy_uses_it(tmp_path):
    with pytest.raises(ConfigError, match=r"triage.rare is 'crack'; allowed: one of good, defect"):
        read(write(tmp_path, f'{GOOD}[triage]\nstrategy = "margin"\nrare = "crack"\n'))
