"""edge.toml: defaults, folders relative to the file, and one clear line for each mistake."""

from pathlib import Path

import pytest

from edge.settings import quiet_hours, read
from shared.errors import ConfigError

HEAD = f'camera = "site/cam-1"\nproject = "cells"\nroot_key = "{"ab" * 32}"\n'
CAPTURE = '[capture]\nsource = "pictures"\n'


def write(folder: Path, text: str) -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    path = folder / "edge.toml"
    path.write_text(text)
    return path


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    settings = read(write(tmp_path, HEAD + CAPTURE))
    assert (settings.camera, settings.project, settings.hub) == ("site/cam-1", "cells", "")
    assert settings.state_folder == tmp_path / "state"
    assert settings.capture.source == str(tmp_path / "pictures")
    assert (settings.packs, settings.packs_unsigned) == ("", False)
    assert (settings.mqtt.username, settings.mqtt.password_file) == ("site/cam-1", "")
    assert (settings.spool.limit_mb, settings.spool.keep_hours) == (512, 24.0)


def test_relative_to_the_file_not_to_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    more = '[mqtt]\npassword_file = "secret"\nca = "/etc/ca.pem"\nusername = "other"\n'
    settings = read(write(tmp_path, HEAD + 'state = "s"\nhub = "plant-2"\npacks = "p"\n' + CAPTURE + more))
    assert settings.state_folder == tmp_path / "s"
    assert settings.packs == str(tmp_path / "p")
    assert settings.mqtt.password_file == str(tmp_path / "secret")
    assert settings.mqtt.ca == "/etc/ca.pem"
    assert settings.mqtt.username == "other"
    assert settings.hub == "plant-2"


def test_a_thin_link_pings_rarely_unless_told(tmp_path: Path) -> None:
    thin = HEAD + CAPTURE + "[link]\nthin = true\n"
    assert read(write(tmp_path, HEAD + CAPTURE)).mqtt.keepalive == 15
    assert read(write(tmp_path, thin)).mqtt.keepalive == 60
    assert read(write(tmp_path, thin + "[mqtt]\nkeepalive = 30\n")).mqtt.keepalive == 30


def test_quiet_hours_may_cross_midnight(tmp_path: Path) -> None:
    settings = read(write(tmp_path, HEAD + CAPTURE + '[link]\nquiet = ["22:00-06:30", "12:00-12:01"]\n'))
    assert [quiet_hours(one) for one in settings.link.quiet] == [(22 * 3600, 6 * 3600 + 1800), (43200, 43260)]


@pytest.mark.parametrize("source", ["0", "rtsp://camera/stream"])
def test_sources_that_are_no_files(tmp_path: Path, source: str) -> None:
    assert read(write(tmp_path, f'{HEAD}[capture]\nsource = "{source}"\n')).capture.source == source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD, "missing required field `capture`"),
        (HEAD + "[capture]\n", "missing required field `source` - at `$.capture`"),
        (HEAD + CAPTURE + "fsp = 3\n", "unknown field `fsp` - at `$.capture`"),
        ("colour = 1\n" + HEAD + CAPTURE, "unknown field `colour`"),
        (HEAD + CAPTURE + 'fps = "ten"\n', "Expected `float`, got `str` - at `$.capture.fps`"),
        (HEAD + CAPTURE + "fps = 0\n", "> 0.0"),
        (HEAD + CAPTURE + "queue = 0\n", ">= 1"),
        (HEAD + CAPTURE + 'raw = "bmp"\n', "$.capture.raw"),
        (HEAD + CAPTURE + "[triage]\nlow_score = 1.5\n", "$.triage.low_score"),
        (HEAD + CAPTURE + "[spool]\nlimit_mb = 0\n", "$.spool.limit_mb"),
        (HEAD + CAPTURE + "[link]\nquiet = ['22:00']\n", "'22:00' are no quiet hours. Write two different times"),
        (HEAD + CAPTURE + "[link]\nquiet = ['22:00-24:00']\n", "'22:00-24:00' are no quiet hours"),
        (HEAD + CAPTURE + "[link]\nquiet = ['22:00-06:00 ']\n", "are no quiet hours"),
        (HEAD + CAPTURE + "[link]\nquiet = ['06:00-06:00']\n", "'06:00-06:00' are no quiet hours"),
        (HEAD + CAPTURE + "[link]\nquiet = '22:00-06:00'\n", "$.link.quiet"),
        (HEAD + CAPTURE + "[link]\nbytes_per_s = -1\n", "$.link.bytes_per_s"),
        (HEAD + CAPTURE + "[link]\nmb_per_day = -0.1\n", "$.link.mb_per_day"),
        (HEAD + CAPTURE + "[spool]\nkeep_hours = -0.5\n", "$.spool.keep_hours"),
        (HEAD + CAPTURE + "[spool]\nkeep_hours = nan\n", "$.spool.keep_hours"),
        (HEAD + CAPTURE + "[mqtt]\nhots = 'x'\n", "unknown field `hots`"),
        (HEAD.replace("ab" * 32, "zz" * 32) + CAPTURE, "$.root_key"),
        (HEAD.replace("ab" * 32, "ab" * 32 + "\\n") + CAPTURE, "$.root_key"),
        (HEAD.replace("site/cam-1", "cam-1") + CAPTURE, "Write it as site/camera"),
        (HEAD.replace("site/cam-1", "site/cam/1") + CAPTURE, "not a valid camera name"),
        (HEAD.replace("site/cam-1", "site/#") + CAPTURE, "not a valid camera name"),
        (HEAD.replace('"cells"', '"a/b"') + CAPTURE, "not a valid project name"),
        (HEAD + 'hub = "+"\n' + CAPTURE, "not a valid hub name"),
        (HEAD + '[capture]\nsource = "nowhere"\n', "capture.source does not exist"),
        (HEAD + '[capture]\nsource = "edge.toml"\nwatch = true\n', "capture.watch needs a folder"),
        (HEAD + '[capture]\nsource = "0"\nwatch = true\n', "capture.watch needs a folder"),
        (HEAD + "[capture\n", "edge.toml"),
        ("\x00", "edge.toml"),
    ],
)
def test_each_mistake_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read .*Give the file with --config"):
        read(tmp_path / "none.toml")
