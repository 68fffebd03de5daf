"""The command line: every command explains itself, and every mistake is one clear line."""

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from sqlmodel import select

from hub import keys
from hub.__main__ import main
from hub.broker import free_port
from hub.policies import Policies
from hub.settings import read
from hub.store import open_store
from hub.tables import Image, Run
from shared.clock import SystemClock
from tests.fakes.listener import wait_until
from tests.hub.making import NOW, add_image, get_image, occupied, picture, toml_in

COMMANDS = {
    "demo": "three cameras",
    "serve": "collect, verify, label page",
    "collect": "beside a serving hub",
    "train": "evaluate against the release in use",
    "release": "through the running hub",
    "card": "what it is for, learned from",
    "export-model": "for people without Hone",
    "pack": "carried to cameras by hand",
    "settings": "a running hub follows at once",
    "fsck": "every row has its blob",
    "backup": "while the hub runs",
    "restore": "begins a new epoch",
    "import": "a folder per class",
    "export-data": "all labelled images with their labels",
    "keys": "root key",
    "broker": "an account per camera",
}


@pytest.fixture
def config(tmp_path):
    return toml_in(tmp_path)


def with_keys(config):
    keys.make(read(config).state_folder / "keys", SystemClock())
    return config


def one_line(capsys):
    """What stderr says, which must be one line of ours."""
    lines = [one for one in capsys.readouterr().err.splitlines() if one.startswith("hone-hub: ") or "Traceback" in one]
    assert len(lines) == 1, lines
    return lines[0]


# -- help


@pytest.mark.parametrize(("command", "says"), COMMANDS.items())
def test_every_command_says_what_it_does(capsys, command, says):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"hone-hub {command}" in text
    assert says in text


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    [listed] = re.findall(r"COMMAND\n(.*?)\n\n", text, re.S)
    assert set(re.findall(r"^ {4}([\w-]+)", listed, re.M)) == set(COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["dance"], ["import", "x", "--split", "test"], ["release"], ["collect"]])
def test_wrong_usage_exits_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: hone-hub" in capsys.readouterr().err


# -- mistakes


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["collect", "--site", "a"],
        ["train"],
        ["fsck"],
        ["backup", "x"],
        ["restore", "x"],
        ["keys"],
        ["release", "1"],
        ["import", "x", "--split", "train"],
    ],
)
def test_without_a_configuration_each_command_says_where_it_looked(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HONE_HUB_CONFIG", raising=False)
    assert main(arguments) == 1
    assert ".hone/hub.toml" in one_line(capsys)
    assert main([*arguments, "--config", str(tmp_path / "gone.toml")]) == 1
    assert "gone.toml: cannot be read" in one_line(capsys)


def test_a_wrong_key_is_named(capsys, config):
    config.write_text(config.read_text() + "colour = 1\n")
    assert main(["serve", "--config", str(config)]) == 1
    assert "colour" in one_line(capsys)


def test_serve_without_keys_says_how_to_make_them(capsys, config):
    assert main(["serve", "--config", str(config)]) == 1
    assert "hone-hub keys" in one_line(capsys)


@pytest.mark.parametrize(
    ("more", "arguments", "says"),
    [
        ("[collect]\nenabled = false", ["--site", "a", "--name", "{hub}"], "--name {hub}: is the hub's own name"),
        ("[collect]\nenabled = false", ["--site", "a/b"], "'a/b' is not a valid site"),
        ("[collect]\nenabled = false", ["--site", "a", "--name", "no name"], "'no name' is not a valid collector name"),
        ("[collect]\nsites = ['+']", ["--site", "a"], "'+' is not a valid site"),
        ("", ["--site", "a"], "Set collect.enabled = false"),
    ],
)
def test_a_collector_that_cannot_be_is_refused_before_anything_is_made(capsys, tmp_path, more, arguments, says):
    config = toml_in(tmp_path, more=more)
    hub = read(config).name if "+" not in more else ""
    assert main(["collect", *(one.format(hub=hub) for one in arguments), "--config", str(config)]) == 1
    assert says.format(hub=hub) in one_line(capsys)
    assert not (tmp_path / "state").exists()


def test_serve_without_the_brokers_password_names_the_file(capsys, tmp_path):
    config = with_keys(toml_in(tmp_path, password="gone"))
    assert main(["serve", "--config", str(config)]) == 1
    assert "gone: password file cannot be read" in one_line(capsys)


def test_serve_on_a_port_in_use_names_it(capsys, tmp_path):
    with occupied() as taken:
        port = taken.getsockname()[1]
        config = with_keys(toml_in(tmp_path, web=port))
        assert main(["serve", "--config", str(config)]) == 1
    assert f"127.0.0.1:{port}" in one_line(capsys)


def test_release_without_a_hub_says_to_start_it(capsys, tmp_path):
    config = toml_in(tmp_path, web=free_port())
    assert main(["release", "3", "--config", str(config)]) == 1
    assert "Start it: hone-hub serve" in one_line(capsys)


def test_train_without_images_says_what_to_do(capsys, config):
    assert main(["train", "--config", str(config)]) == 1
    assert "hone-hub import FOLDER" in one_line(capsys)
    store = open_store(read(config))
    with store.read() as session:
        [run] = session.exec(select(Run)).all()
    assert (run.state, run.why) == ("failed", "by hand")
    store.close()


def test_broker_refuses_a_name_that_is_no_camera(capsys, tmp_path):
    assert main(["broker", "--folder", str(tmp_path / "b"), "--camera", "cam"]) == 1
    assert "site/camera" in one_line(capsys)
    assert not (tmp_path / "b").exists()


def test_nothing_but_one_line_and_status_1_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hub", "fsck", "--config", "gone.toml"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"hone-hub: gone\.toml: cannot be read .*\n", done.stderr)


# -- what they do


def test_keys_are_made_once_and_shown_each_time(capsys, config):
    assert main(["keys", "--config", str(config)]) == 0
    first = capsys.readouterr().out
    assert main(["keys", "--config", str(config)]) == 0
    again = capsys.readouterr().out
    [root] = re.findall(r'root_key = "([0-9a-f]{64})"', first)
    assert again == f'root_key = "{root}"\n'
    assert keys.load(read(config).state_folder / "keys").root_public == root


def test_keys_are_rotated_with_the_root_key(capsys, tmp_path, config):
    folder = read(config).state_folder / "keys"
    assert main(["keys", "--config", str(config)]) == 0
    root = keys.load(folder).root_public
    (folder / keys.ROOT).rename(tmp_path / "stick.pem")
    capsys.readouterr()
    assert main(["keys", "--config", str(config), "--rotate"]) == 1
    assert "root.pem: keys cannot be read" in one_line(capsys)
    assert main(["keys", "--config", str(config), "--rotate", "--revoke", "--root", str(tmp_path / "stick.pem")]) == 0
    told = capsys.readouterr().out
    now = keys.load(folder)
    assert told.splitlines() == [
        f"delegation {now.number} names {now.delegated[0]}; this hub signs with {now.delegated[0]}",
        f'root_key = "{root}"',
    ]


def test_broker_writes_an_account_for_each(capsys, tmp_path):
    folder = tmp_path / "b"
    assert main(["broker", "--folder", str(folder), "--camera", "site/a", "--camera", "site/b"]) == 0
    assert str(folder / "mosquitto.conf") in capsys.readouterr().out
    assert {one.name for one in (folder / "clear").iterdir()} == {"hub", "scada", "site__a", "site__b"}


def test_import_then_fsck(capsys, tmp_path, config):
    for name in ("good", "defect"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.png").write_bytes(picture(len(name)))
    command = ["import", "--config", str(config), "--split", "holdout", str(tmp_path / "images")]
    assert main(command) == 0
    assert "2 images added to holdout, 0 were there already" in capsys.readouterr().out
    assert main(command) == 0
    assert "0 images added to holdout, 2 were there already" in capsys.readouterr().out
    (tmp_path / "images" / "crack").mkdir()
    assert main(command) == 1
    assert "is not a class" in one_line(capsys)

    assert main(["fsck", "--deep", "--config", str(config)]) == 0
    assert "nothing found" in capsys.readouterr().out
    store = open_store(read(config))
    with store.read() as session:
        [first, _] = session.exec(select(Image.sha256)).all()
    store.blobs.path(first).unlink()
    assert main(["fsck", "--config", str(config)]) == 1
    out = capsys.readouterr().out
    assert "missing: image 1" in out
    assert "1 findings, 1 of them wrong still" in out
    assert main(["fsck", "--repair", "--config", str(config)]) == 0
    assert "1 findings, 0 of them wrong still" in capsys.readouterr().out
    assert get_image(store, 1).state == "lost"
    shutil.rmtree(tmp_path / "images" / "crack")
    assert main(command) == 0  # the same images again
    assert get_image(store, 1).state == "verified"
    assert main(["fsck", "--deep", "--config", str(config)]) == 0
    store.close()


def test_serve_starts_without_a_broker_and_answers(tmp_path):
    port = free_port()
    config = with_keys(toml_in(tmp_path, mqtt=free_port(), web=port))
    store = open_store(read(config))
    add_image(store, picture(), received_at=NOW)
    store.close()
    process = subprocess.Popen(
        [sys.executable, "-m", "hub", "serve", "--config", str(config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    answers = []

    def asked():
        assert process.poll() is None, process.communicate()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
                answers.append((answer.status, json.load(answer)))
        except urllib.error.HTTPError as error:
            answers.append((error.code, json.load(error)))
        except OSError:
            return False
        return True

    try:
        wait_until(asked, "an answer", seconds=60)
        status, body = answers[0]
        assert (status, body["ok"], body["database"], body["broker"]) == (503, False, True, False)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert f"hub hub-{tmp_path.name[-20:]} of project cells: http://127.0.0.1:{port}" in out
    assert "is not there yet" in err
    assert "Traceback" not in err


def test_train_by_hand_tells_the_verdict(capsys, tmp_path, taught):
    from tests.hub.conftest import CACHE

    shutil.copytree(taught / "state", tmp_path / "state")
    config = toml_in(tmp_path, more=f'cache = "{CACHE}"\n[train]\nl2 = [0.01]\nfolds = 2\n')
    assert main(["train", "--config", str(config), "--why", "to see"]) == 0
    reason = r"\(there is no release to compare with; measured on holdout version 1\)"
    assert re.search(rf"run 2: first {reason}, AUC [01]\.\d{{3}}", capsys.readouterr().out)


def test_a_repeated_run_is_compared_part_by_part(capsys, tmp_path, taught):
    from tests.hub.conftest import CACHE

    shutil.copytree(taught / "state", tmp_path / "state")
    config = toml_in(tmp_path, more=f'cache = "{CACHE}"\n')
    assert main(["train", "--config", str(config), "--again", "1"]) == 0
    assert "the same as run 1, bit by bit" in capsys.readouterr().out
    store = open_store(read(config))
    with store.write() as session:
        run = session.get(Run, 1)
        run.parts = {**run.parts, "references": "f" * 64}
        session.add(run)
    assert main(["train", "--config", str(config), "--again", "1"]) == 1
    assert "not the same as run 1: references; that had the same versions" in capsys.readouterr().out


def test_a_run_that_was_cancelled_is_resumed_by_hand(capsys, tmp_path, taught):
    from tests.hub.conftest import CACHE

    shutil.copytree(taught / "state", tmp_path / "state")
    config = toml_in(tmp_path, more=f'cache = "{CACHE}"\n[train]\nl2 = [0.01]\nfolds = 2\n')
    assert main(["train", "--config", str(config), "--resume", "1"]) == 1
    assert "run 1: cannot be resumed" in one_line(capsys)
    store = open_store(read(config))
    with store.write() as session:
        run = session.get(Run, 1)
        run.state = "cancelled"
        session.add(run)
    assert main(["train", "--config", str(config), "--resume", "1"]) == 0
    assert "run 1: first" in capsys.readouterr().out


# -- settings


def test_settings_are_shown_set_and_taken_back(config, capsys):
    assert main(["settings", "--config", str(config)]) == 0
    assert "triage.low_score = 0.8   # default; number from 0 to 1\n" in capsys.readouterr().out
    asked = ["triage.low_score=0.7", "retrain.daily_at=06:30", "train.l2=[0.1, 0.01]", "train.class_balanced=false"]
    assert main(["settings", *asked, "--by", "Mira", "--config", str(config)]) == 0
    found = Policies(read(config), open_store(read(config)), SystemClock())
    now = found.now()
    assert (now.triage.low_score, now.retrain.daily_at, now.train.l2) == (0.7, "06:30", (0.1, 0.01))
    assert not now.train.class_balanced
    assert {one.operator for one in found.history(9)} == {"Mira"}
    capsys.readouterr()
    assert main(["settings", "train.seed", "--clear", "train.l2", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    seed = "whole number from 0 to 4294967295\n    of folds, samples, first weights and the order of images.\n"
    assert f"train.seed = 0   # default; {seed}" in out
    assert found.now().train.l2 == read(config).train.l2


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("train.folds=1", "train.folds is 1; allowed: whole number from 2 to 100"),
        ("train.fold=1", "train.fold is no setting; allowed: train.kind"),
        ("train.fold", "'train.fold' is no setting"),
        ("triage.low_score=high", 'triage.low_score is "high"; allowed: number from 0 to 1'),
    ],
)
def test_a_wrong_setting_is_one_clear_line(config, capsys, asked, says):
    assert main(["settings", "train.seed=4", asked, "--config", str(config)]) == 1
    assert says in one_line(capsys)
    assert Policies(read(config), open_store(read(config)), SystemClock()).now().train.seed == 0, "nothing was changed"
