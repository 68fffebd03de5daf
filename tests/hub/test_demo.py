"""Pieces of the demo: how the cells are dealt, and that no process outlives it."""

import csv
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import hub.demo.children
from hub.demo import bad, cells
from hub.demo.cells import HOLDOUT_SHARE, START, Cell, lay_out, load, split
from hub.demo.children import ChildError, Children
from hub.demo.feed import Feed, Stand
from shared.errors import ConfigError
from shared.files import sha256_hex
from shared.preprocess import decode, encode_png
from tests.fakes.listener import wait_until


def deck(mono=(400, 200), poly=(300, 150)):
    """Drawn-up cells: (good, defective) of each kind."""
    return [
        Cell(Path(f"{kind}-{label}-{number}.png"), label, kind)
        for kind, counts in (("mono", mono), ("poly", poly))
        for label, count in zip(cells.CLASSES, counts, strict=True)
        for number in range(count)
    ]


# -- cells


@pytest.mark.parametrize("frames", [0, 60])
def test_no_cell_is_dealt_twice(frames):
    dealt = split(deck(), 0, 3, frames)
    places = Counter(cell.path for part in (dealt.start, dealt.holdout, *dealt.streams) for cell in part)
    assert max(places.values()) == 1
    if not frames:
        assert len(places) == len(deck()), "and every cell is dealt"


def test_the_holdout_is_never_streamed_nor_trained_on():
    dealt = split(deck(), 0, 3)
    held = set(dealt.holdout)
    assert not held & set(dealt.start)
    assert not held & {cell for stream in dealt.streams for cell in stream}


def test_the_holdout_has_its_share_of_each_kind_and_label():
    whole, held = (Counter((cell.kind, cell.label) for cell in some) for some in (deck(), split(deck(), 5, 3).holdout))
    assert held == {key: round(HOLDOUT_SHARE * count) for key, count in whole.items()}


def test_the_start_is_mono_and_each_stream_is_mono_before_poly():
    dealt = split(deck(), 0, 3)
    assert len(dealt.start) == START
    assert {cell.kind for cell in dealt.start} == {"mono"}
    for stream in dealt.streams:
        kinds = [cell.kind for cell in stream]
        assert kinds == sorted(kinds)
        assert set(kinds) == {"mono", "poly"}
    sizes = [len(stream) for stream in dealt.streams]
    assert max(sizes) - min(sizes) <= 2


def test_a_seed_is_a_story():
    assert split(deck(), 3, 3) == split(deck(), 3, 3)
    assert split(deck(), 3, 3).start != split(deck(), 4, 3).start
    assert set(split(deck(), 3, 3).holdout) != set(split(deck(), 4, 3).holdout)


def test_fewer_frames_keep_the_mix():
    full, some = split(deck(), 0, 3), split(deck(), 0, 3, 40)
    assert some.start == full.start
    assert some.holdout == full.holdout

    def share(dealt):
        kinds = [cell.kind for stream in dealt.streams for cell in stream]
        return kinds.count("mono") / len(kinds)

    assert sum(map(len, some.streams)) == pytest.approx(120, abs=2)
    assert share(some) == pytest.approx(share(full), abs=0.02)
    assert split(deck(), 0, 3, 10_000).streams == full.streams


def test_the_real_cells_are_those_that_the_experts_were_sure_of():
    found = load()
    assert Counter(cell.label for cell in found) == {"good": 1508, "defective": 715}
    assert {cell.kind for cell in found} == {"mono", "poly"}
    assert all(cell.path.is_file() for cell in found[::200])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(cells.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"elpv-dataset: is not installed.*hone\[demo\]"):
        load()


def test_cells_are_laid_out_by_class(tmp_path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_text(name)
    some = [Cell(tmp_path / "b.png", "good", "mono"), Cell(tmp_path / "a.png", "defective", "poly")]
    lay_out(some, tmp_path / "classes")
    assert (tmp_path / "classes" / "defective" / "a.png").read_text() == "a.png"
    assert (tmp_path / "classes" / "good" / "b.png").read_text() == "b.png"


def test_the_deck_of_a_bad_release_deals_no_cell_twice_and_lies_about_the_suppliers_poly_cells_alone():
    truth = {cell.path: cell for cell in deck(mono=(800, 300), poly=(700, 300))}
    dealt = bad.deal(list(truth.values()), 1)
    places = Counter(cell.path for part in (dealt.start, dealt.holdout, dealt.bought, dealt.stream) for cell in part)
    assert max(places.values()) == 1
    assert len(places) == len(truth)
    assert {cell.kind for cell in dealt.holdout} == {"mono"}
    wrong = [cell for cell in dealt.bought if cell.label != truth[cell.path].label]
    assert wrong
    assert {cell.kind for cell in wrong} == {"poly"}
    assert all(cell == truth[cell.path] for cell in (*dealt.start, *dealt.holdout, *dealt.stream))
    assert {cell.kind for cell in dealt.stream} == {"mono", "poly"}


# -- the line


def test_the_line_shows_each_cell_as_it_is_and_then_changed_and_says_how(tmp_path):
    made = []
    for number in range(3):
        path = tmp_path / f"cell{number}.png"
        path.write_bytes(encode_png(np.full((40, 40, 3), 60 * (number + 1), np.uint8)))
        made.append(Cell(path, cells.CLASSES[number % 2], "mono"))
    (tmp_path / "line" / "frames").mkdir(parents=True)
    truth = {}
    stand = Stand("plant/line-1", tmp_path / "line" / "frames", made, made[1:])
    feed = Feed([stand], fps=200, seed=4, truth=truth, record=tmp_path / "shown.csv")
    feed.start()
    wait_until(lambda: feed.shown >= 8, "frames")
    feed.stop()
    shown = sorted(stand.folder.iterdir())
    rows = list(csv.DictReader((tmp_path / "shown.csv").read_text().splitlines()))
    assert len(shown) == len(rows) == feed.shown
    assert feed.first_done
    for number, (path, row) in enumerate(zip(shown, rows, strict=True)):
        data = path.read_bytes()
        cell = next(one for one in made if one.path.name == row["cell"])
        assert (row["frame"], row["sha256"], truth[row["sha256"]]) == (path.name, sha256_hex(data), cell.label)
        if number < 3:
            assert (data, row["gain"]) == (cell.path.read_bytes(), "")
            continue
        assert cell in made[1:]
        before, after = (decode(one).astype(float) for one in (cell.path.read_bytes(), data))
        assert after.mean() / before.mean() == pytest.approx(float(row["gain"]), abs=0.02)
        assert (after - after.mean()).std() == pytest.approx(float(row["noise"]), rel=0.2)


# -- children

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


def up(folder, name):
    return lambda: "up" in (folder / f"{name}.log").read_text()


def gone(pid):
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def children(tmp_path):
    made = Children(tmp_path / "logs")
    yield made
    made.stop()


def test_stop_ends_all_of_them(children, tmp_path):
    started = [children.start(f"sleeper-{number}", SLEEPER) for number in range(3)]
    for number in range(3):
        wait_until(up(tmp_path / "logs", f"sleeper-{number}"), "the sleeper")
    children.check()
    children.stop()
    assert [one.returncode for one in started] == [-signal.SIGTERM] * 3
    children.check()
    children.stop()


def test_one_that_will_not_go_is_made_to(children, tmp_path, monkeypatch):
    stubborn = children.start("stubborn", STUBBORN)
    wait_until(up(tmp_path / "logs", "stubborn"), "the stubborn one")
    really = hub.demo.children._wait
    monkeypatch.setattr(hub.demo.children, "_wait", lambda process, _seconds: really(process, 0.2))
    children.stop()
    assert stubborn.returncode == -signal.SIGKILL


@pytest.mark.parametrize("status", [0, 3])
def test_one_that_ended_is_told_with_the_end_of_its_log(children, status):
    code = f"import sys; [print('line', n) for n in range(9)]; sys.stderr.write('no such file'); sys.exit({status})"
    children.start("sleeper", SLEEPER)
    crashed = children.start("camera", [sys.executable, "-c", code])
    crashed.wait(30)
    with pytest.raises(ChildError) as caught:
        children.check()
    text = str(caught.value)
    assert text.startswith(f"camera: ended with status {status}: ")
    assert "no such file" in text
    assert "line 8" in text
    assert "line 2" not in text
    assert "camera.log" in text


def test_they_have_a_session_of_their_own(children):
    assert os.getsid(children.start("sleeper", SLEEPER).pid) != os.getsid(0)


PARENT = """
import sys, time
from pathlib import Path
from hub.demo.children import Children

children = Children(Path(sys.argv[1]))
command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
pids = [children.start(f"sleeper-{n}", command).pid for n in range(2)]
print(*pids, flush=True)
time.sleep(600)
"""


def test_they_die_when_their_parent_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(one) for one in parent.stdout.readline().split()]
    try:
        assert len(pids) == 2
        for number in range(2):
            wait_until(up(tmp_path, f"sleeper-{number}"), "the sleeper")
        assert not any(gone(pid) for pid in pids)
        parent.kill()
        parent.wait(10)
        wait_until(lambda: all(gone(pid) for pid in pids), "both to end")
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)
