"""The whole loop through the real programs, on fewer images; and how it ends when somebody ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("HONE_CACHE", ROOT / ".hone" / "cache"))


def start(state, *options, program=("-m", "hub")):
    """`hone-hub demo` as a process; the converted backbone comes from the cache."""
    state.mkdir(parents=True, exist_ok=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    (state / "cache").symlink_to(CACHE)
    command = [sys.executable, *program, "demo", "--state", str(state), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children_of(state):
    """Process ids of everything that runs with this state folder in its command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(state) in line and " demo " not in line:
                found[int(entry.name)] = line
    return found


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return result


def test_the_loop_from_first_release_to_a_better_one_on_every_camera(tmp_path):
    state = tmp_path / "state"
    demo = start(state, "--once", "--frames", "90", "--seed", "3")
    try:
        output, _ = demo.communicate(timeout=540)
    finally:
        demo.kill()
        demo.communicate()
    assert demo.returncode == 0, output
    result = json.loads((state / "demo.json").read_text())
    releases, images = result["releases"], result["images"]
    assert [one["release"] for one in releases] == list(range(1, len(releases) + 1))
    assert len(releases) >= 2
    assert releases[-1]["auc"] > releases[0]["auc"]
    assert result["gain"]["low"] > 0
    assert result["cameras"] == {"total": 3, "on_last_release": 3}
    assert result["frames"]["dropped"] == 0
    assert result["frames"]["captured"] > 270, "all that there is, and some of it again"
    assert images["spooled"] == images["stored"] > 50
    assert images["left"] == images["dropped"] == images["unspooled"] == 0
    assert releases[1]["bytes"] < 0.01 * releases[0]["bytes"]
    ways = {one["release"]: [stage["stage"] for stage in one["stages"]] for one in result["rollouts"]}
    assert ways[1] == ["everyone", "done"]
    assert ways[releases[-1]["release"]] == ["shadow", "canary", "group", "everyone", "done"]
    assert children_of(state) == {}
    # What is on disk agrees, seen by the program that an operator would use, and by nobody's counters.
    checked = subprocess.run(
        [sys.executable, "-m", "hub", "fsck", "--deep", "--config", str(state / "hub.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    for camera in (state / "cameras").iterdir():
        spool = camera / "state" / "spool"
        said = [json.loads(line) for line in (spool / "journal.jsonl").read_text().splitlines()]
        kept = {one["id"] for one in said if one["end"] == "stored"}
        assert {one.name[:36] for one in spool.glob("*_??.*")} == kept, "copies of what is stored, and nothing else"
    stored = sum(1 for _ in (state / "hub" / "blobs").glob("*/*"))
    assert stored >= images["stored"]


def test_a_bad_release_is_stopped_at_the_canary_and_goes_back(tmp_path):
    state = tmp_path / "state"
    demo = start(state, "--once", "--story", "bad-release")
    try:
        output, _ = demo.communicate(timeout=540)
    finally:
        demo.kill()
        demo.communicate()
    assert demo.returncode == 0, output
    result = json.loads((state / "demo.json").read_text())
    rollback = result["rollback"]
    assert (rollback["happened"], rollback["stage"], rollback["cameras_harmed"], rollback["cameras"]) == (
        True,
        "canary",
        1,
        3,
    )
    assert "it is worse" in rollback["reason"]
    assert rollback["labels"] >= rollback["pairs"]["broken"] > rollback["pairs"]["mended"]
    assert result["holdout_auc"]["2"] > result["holdout_auc"]["1"]
    assert result["running"] == [3]


@pytest.mark.parametrize("crash", [False, True], ids=["all alive", "a camera crashed before"])
def test_ctrl_c_ends_every_process(tmp_path, crash):
    state = tmp_path / "state"
    demo = start(state, "--frames", "30")
    try:
        wait_for(lambda: len([line for line in children_of(state).values() if " edge run " in line]) == 3)
        if crash:
            camera = next(pid for pid, line in children_of(state).items() if " edge run " in line)
            os.kill(camera, signal.SIGKILL)
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
        demo.communicate()
    assert "Traceback" not in output
    assert demo.returncode in ((0,) if not crash else (0, 1)), output
    wait_for(lambda: children_of(state) == {}, 15)


INTERRUPTED = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.pool import Pool
from hub.__main__ import main

left = 5

def interrupt(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGINT)

event.listen(Pool, "reset", interrupt)
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_while_a_connection_goes_back_to_its_pool_leaves_no_trace(tmp_path):
    """The signal comes at the worst moment of the import, every time."""
    state = tmp_path / "state"
    demo = start(state, "--frames", "30", program=("-c", INTERRUPTED))
    try:
        output, _ = demo.communicate(timeout=100)
    finally:
        demo.kill()
        demo.communicate()
    assert "everything that was started is being stopped" in output
    assert "Traceback" not in output
    assert demo.returncode == 0, output
    wait_for(lambda: children_of(state) == {}, 15)


def test_a_crashed_process_ends_the_demo_with_its_name(tmp_path):
    state = tmp_path / "state"
    demo = start(state, "--once", "--frames", "30")
    try:
        hub = wait_for(lambda: [pid for pid, line in children_of(state).items() if " hub serve " in line])
        wait_for(lambda: len([line for line in children_of(state).values() if " edge run " in line]) == 3)
        os.kill(hub[0], signal.SIGKILL)
        output, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
        demo.communicate()
    assert demo.returncode == 1, output
    assert "hub: ended with status -9" in " ".join(output.split())
    assert "Traceback" not in output
    wait_for(lambda: children_of(state) == {}, 15)
