"""A thread that dies ends its program; seen in a real process."""

import subprocess
import sys

PROGRAM = """
import logging, sys, threading
from shared.crash import Watch
logging.basicConfig(level=logging.INFO)
ended = threading.Event()
watch = Watch(ended.set)
watch.install()
threading.Thread(target=lambda: 1 / int(sys.argv[1]), name="worker").start()
ended.wait(1)
sys.exit(7 if watch.happened else 0)
"""


def run(argument):
    return subprocess.run([sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=False)


def test_a_thread_that_dies_stops_the_program_and_names_itself():
    done = run("0")
    assert done.returncode == 7
    assert "thread worker died" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_a_thread_that_ends_well_stops_nothing():
    done = run("1")
    assert (done.returncode, done.stderr) == (0, "")
