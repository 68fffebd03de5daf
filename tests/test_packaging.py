"""What a wheel holds, and what `pip install .[edge]` would bring to a camera."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HUB_ONLY = {
    "torch",
    "litert-torch",
    "fastapi",
    "uvicorn",
    "sqlmodel",
    "sqlalchemy",
    "scikit-learn",
    "jinja2",
    "elpv-dataset",
}


def pip(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".")
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_page_the_broker_and_the_migrations_and_no_data(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    for needed in (
        "hub/mosquitto/acl",
        "hub/mosquitto/mosquitto.conf.in",
        "hub/web/templates/label.html",
        "hub/web/static/label.js",
        "hub/web/static/vendor/htmx.min.js",
        "hub/web/static/vendor/uPlot.iife.min.js",
        "hub/migrations/versions/0001_first_schema.py",
        "edge/agent.py",
        "shared/transfer/__init__.py",
    ):
        assert needed in names
    assert not [one for one in names if one.endswith((".png", ".jpg", ".pth", ".tflite")) or "elpv" in one]
    assert not [one for one in names if one.startswith("tests/")]


def test_a_camera_gets_none_of_the_hubs_packages(wheel, tmp_path):
    report = tmp_path / "report.json"
    pip("install", "--quiet", "--dry-run", "--ignore-installed", "--constraint", "constraints.txt",
        "--report", str(report), f"{wheel}[edge]")  # fmt: skip
    names = {one["metadata"]["name"].lower().replace("_", "-") for one in json.loads(report.read_text())["install"]}
    assert {"hone", "paho-mqtt", "numpy", "opencv-python-headless", "watchdog", "ai-edge-litert", "msgspec"} <= names
    assert not names & HUB_ONLY
    assert len(names) < 30
