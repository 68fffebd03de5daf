"""The settings files that the demo writes for its hub and cameras; real ones look the same."""

import json
from pathlib import Path

from hub.demo.cells import CLASSES

PROJECT = "cells"
EVERY = 50
"""New labels that start a run."""
FPS = 6.0
WINDOW_S = 2.0
"""Seconds after which a window of triage ends: the demo has an end, a line has none."""


def hub_toml(mqtt_port: int, web_port: int, seed: int, more: str) -> str:
    """hub.toml of the demo; its paths are relative to the state folder. more: tables that differ between stories."""
    return f"""\
# Written by `hone-hub demo`; a real hub's file looks the same.
name = "hub"
state = "hub"
cache = "cache"

[project]
name = "{PROJECT}"
classes = {json.dumps(list(CLASSES))}

[mqtt]
port = {mqtt_port}
username = "hub"
password_file = "broker/clear/hub"

[web]
port = {web_port}

[train]
seed = {seed}

# Three cameras, some minutes: half of the frames of the first ones are judged by both releases, and 5 % more errors are
# harm enough. A plant has more frames and more time (docs/operations.md).
[rollout]
shadow = 1
shadow_frames = 30
canary = 1
canary_frames = 50
share = 0.5
margin = 0.05
groups = ["50%"]
max_slower = 3.0  # the cameras share this machine with the training
soak_s = 2.0
hold_s = 300.0

{more}"""


def edge_toml(camera: str, root: str, mqtt_port: int, password_file: Path, fps: float) -> str:
    """edge.toml of one camera; its paths are relative to that camera's folder. fps: at which the line shows frames."""
    return f"""\
# Written by `hone-hub demo`; a real camera's file looks the same.
camera = "{camera}"
project = "{PROJECT}"
root_key = "{root}"
state = "state"
report_s = 1.0

[capture]
source = "frames"
watch = true
fps = {fps}
queue = 16

[triage]
low_score = 0.8
top = 3
window_s = {WINDOW_S}

[mqtt]
port = {mqtt_port}
password_file = {json.dumps(str(password_file))}
"""
