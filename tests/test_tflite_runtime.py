"""The camera's models under tflite-runtime and numpy 1, as armv7l runs them, in an environment that `make test` makes.

LiteRT is not installed there. Of it stands there only the schema, with which the tests write their models.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import ai_edge_litert
import msgspec
import pytest
from packaging.requirements import Requirement

from shared.files import sha256_hex
from tests.fakes.lite0 import releases

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-tflite" / "bin" / "python"
CACHE = Path(os.environ.get("HONE_CACHE", ROOT / ".hone" / "cache"))
TESTS = [
    "tests/edge/reload",
    "--ignore=tests/edge/reload/test_attacks.py",  # signatures, whatever runs the models
    "--ignore=tests/edge/reload/test_packs.py",
    "tests/edge/test_infer.py",
    "tests/edge/test_shelf.py",
    "tests/shared/test_golden.py",
    "tests/shared/test_litert.py",
    "tests/shared/test_manifest.py",
    "tests/shared/test_preprocess.py",
    "tests/shared/test_references.py",
]
LAST_PYTHON = (3, 11)

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] > LAST_PYTHON, reason="tflite-runtime has no wheels for a later Python"
)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Run Python with tflite-runtime, in the root of the repository; returns the finished process."""
    assert PYTHON.exists(), f"{PYTHON} is missing; make test makes it"
    schema = tmp_path_factory.mktemp("schema")
    (schema / "ai_edge_litert").mkdir()
    shutil.copy(Path(ai_edge_litert.__file__).parent / "schema_py_generated.py", schema / "ai_edge_litert")

    def run(*arguments):
        return subprocess.run(
            [PYTHON, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(schema)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


def test_infer_and_reload(other):
    done = other("-m", "pytest", "-p", "no:cacheprovider", "--color=no", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^runtime: tflite_runtime\.interpreter, numpy 1\.", done.stdout, re.MULTILINE), done.stdout
    skipped = re.findall(r"^SKIPPED \[(\d+)\] (\S+)", done.stdout, re.MULTILINE)
    assert [(count, where.partition(":")[0]) for count, where in skipped] == [("3", "tests/shared/test_litert.py")]


def test_a_float_release_of_the_hub_passes_the_golden_check(other, tmp_path):
    """Lite0 as LiteRT computed it on the hub, with the tolerances that every release has."""
    [made] = releases(CACHE, 1)
    spec = made.spec()
    for data in made.blobs():
        (tmp_path / sha256_hex(data)).write_bytes(data)
    (tmp_path / "model.json").write_bytes(msgspec.json.encode(spec))
    done = other("-m", "tests.fakes.golden", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["runtime"] == "tflite_runtime.interpreter"
    assert result["numpy"].startswith("1.")
    assert result["inputs"] > 1

    # It is a check: what the head did not compute does not pass.
    other_way = [row[::-1] for row in spec.golden_probabilities]
    wrong = msgspec.structs.replace(spec, golden_probabilities=other_way)
    (tmp_path / "model.json").write_bytes(msgspec.json.encode(wrong))
    done = other("-m", "tests.fakes.golden", str(tmp_path))
    assert done.returncode != 0
    assert "GoldenError" in done.stderr


def test_the_environment_is_what_an_armv7l_camera_gets():
    """Its pins satisfy what the project asks of that machine, and LiteRT is not among them."""
    lines = [one for one in (ROOT / "constraints-tflite.txt").read_text().splitlines() if not one.startswith("#")]
    pinned = {one.name: next(iter(one.specifier)).version for one in map(Requirement, lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(one) for one in project["dependencies"] + project["optional-dependencies"]["edge"]]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"platform_machine": "armv7l"})]
    assert {one.name for one in wanted} <= pinned.keys()
    for one in wanted:
        assert pinned[one.name] in one.specifier, one
    assert "ai-edge-litert" not in pinned
    assert pinned["pytest"] == version("pytest")
