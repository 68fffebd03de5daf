"""`hone-edge`: every mistake of the installer is one clear line and exit status 1; SIGTERM is a good end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.__main__ import main
from shared.preprocess import encode_png
from tests.edge.test_capture import picture

ROOT = Path(__file__).parents[2]
GOOD = f'camera = "site/cam-1"\nproject = "cells"\nroot_key = "{"ab" * 32}"\n[capture]\nsource = "pictures"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(encode_png(picture(1)))
    path = tmp_path / "edge.toml"
    path.write_text(GOOD)
    return path


def test_check(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(config)]) == 0
    assert capsys.readouterr().out == f"{config} is good: camera site/cam-1, project cells\n"


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hone-edge: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("source", "sauce"), "sauce"),
        (GOOD.replace('"cells"', "5"), "$.project"),
        (GOOD.replace("pictures", "nowhere"), "does not exist"),
        ("[[[", "edge.toml"),
    ],
)
def test_a_wrong_configuration(
    config: Path, capsys: pytest.CaptureFixture[str], command: str, text: str, says: str
) -> None:
    config.write_text(text)
    err = fails([command, "--config", str(config)], capsys)
    assert says in err
    assert str(config.parent) in err


def test_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Give the file with --config" in fails(["run", "--config", str(tmp_path / "none.toml")], capsys)


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file or directory). Create it"),
        ("a folder", "cannot be read (Is a directory). Make it a text file"),
        (b"\xff\xfe", "cannot be read ('utf-8' codec"),
        (b"", "is empty in its first line. Write the account's password"),
        (b" \nsecret\n", "is empty in its first line"),
    ],
    ids=["missing", "folder", "not text", "empty", "second line"],
)
def test_a_password_file_that_holds_no_password(
    config: Path, capsys: pytest.CaptureFixture[str], command: str, content: bytes | str | None, says: str
) -> None:
    secret = config.parent / "secret"
    if isinstance(content, bytes):
        secret.write_bytes(content)
    elif content is not None:
        secret.mkdir()
    config.write_text(GOOD + '[mqtt]\npassword_file = "secret"\n')
    assert f"{secret}: password file {says}" in fails([command, "--config", str(config)], capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_password_file_that_this_user_may_not_read(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = config.parent / "secret"
    secret.write_text("secret\n")
    secret.chmod(0)
    config.write_text(GOOD + '[mqtt]\npassword_file = "secret"\n')
    assert "cannot be read (Permission denied)" in fails(["check", "--config", str(config)], capsys)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_password_that_everybody_may_read_is_warned_of(
    config: Path, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    secret = config.parent / "secret"
    secret.write_text("secret\n")
    secret.chmod(mode)
    config.write_text(GOOD + '[mqtt]\npassword_file = "secret"\n')
    assert main(["check", "--config", str(config)]) == 0
    out, err = capsys.readouterr()
    assert "is good" in out
    assert (
        f"warning: {secret}: every user of this machine can read the password. Run: chmod o= {secret}" in err
    ) == warned
    assert warned or not err


def test_no_images(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "pictures" / "a.png").unlink()
    assert "holds no images" in fails(["run", "--config", str(config)], capsys)


def test_a_state_folder_that_cannot_be_used(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "state").write_text("a file")
    assert "state/spool: cannot be used" in fails(["run", "--config", str(config)], capsys)


def test_as_a_program(config: Path) -> None:
    config.write_text(GOOD.replace("source", "sauce"))
    done = subprocess.run(
        [sys.executable, "-m", "edge", "run", "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_the_example_in_the_help_is_an_example(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    start = text.index('  camera = "berlin/press-1"')
    lines = text[start : text.index("docs/operations.md")].splitlines()
    example = "\n".join(line.strip() for line in lines)
    example = example.replace(example.split('root_key = "')[1].split('"')[0], "ab" * 32)
    config.write_text(example.replace("/var/spool/pictures", "pictures"))
    (config.parent / "password").write_text("secret\n")
    assert main(["check", "--config", str(config)]) == 0
