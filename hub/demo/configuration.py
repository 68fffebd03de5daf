"""The settings files that the demo writes for its hub and cameras; real ones look the same."""

import json
from pathlib import Path

from hub.demo.cells import CLASSES

PROJECT = "cells"
EVERY = 50
"""New labels that start a run."""
FPS = 6.0


def hub_toml(mqtt_port: int, web_port: int, seed: int) -> str:
    """hub.toml of the demo; its paths are relative to the state folder."""
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

[retrain]
every_labels = {EVERY}

[rollout]
canary = 1
soak_s = 3.0
"""


def edge_toml(camera: str, root: str, mqtt_port: int, password_file: Path) -> str:
    """edge.toml of one camera; its paths are relative to that camera's folder."""
    return f"""\
# Written by `hone-hub demo`; a real camera's file looks the same.
camera = "{camera}"
project = "{PROJECT}"
root_key = "{root}"
state = "state"
report_s = 1.0

[capture]
source = "frames"
fps = {FPS}
queue = 16

[triage]
low_score = 0.8

[mqtt]
port = {mqtt_port}
password_file = {json.dumps(str(password_file))}
"""
