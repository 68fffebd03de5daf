from pathlib import Path

import msgspec
import pytest

from shared import config
from shared.errors import ConfigError
from shared.mqtt import MqttSettings


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: int = 3


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    inner: Inner = Inner()
    mqtt: MqttSettings = MqttSettings()


def load(tmp_path: Path, text: str | bytes) -> Settings:
    path = tmp_path / "edge.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(path, Settings)


def test_good_file(tmp_path: Path) -> None:
    got = load(tmp_path, 'name = "x"\n[inner]\nlimit = 7\n[mqtt]\nport = 1884\n')
    assert got == Settings(name="x", inner=Inner(limit=7), mqtt=MqttSettings(port=1884))


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    got = load(tmp_path, 'name = "x"')
    with pytest.raises(AttributeError):
        got.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name"),
        ("name = 3", r"`int`.*\$\.name"),
        ('name = "x"\nnmae = "y"', "nmae"),
        ('name = "x"\n[inner]\nlimit = "7"', r"`str`.*\$\.inner\.limit"),
        ('name = "x"\n[inner]\nlimit = 7.5', r"\$\.inner\.limit"),
        ('name = "x"\n[inner]\nlimmit = 7', "limmit"),
        ('name = "x"\n[mqtt]\nport = true', r"\$\.mqtt\.port"),
        ('name = "x"\nname = "y"', "name|overwrite"),
        ('name = "x', "Unterminated string"),
        ("name", "Expected '='"),
        (b'name = "\xff"', "utf-8"),
        ("name = " + "[" * 5000, "edge.toml"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert caught.value.subject == str(tmp_path / "edge.toml")
    assert caught.value.remedy


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read \(No such file.*--config"):
        config.load(tmp_path / "none.toml", Settings)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path, Settings)
