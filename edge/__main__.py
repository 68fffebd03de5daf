"""hone-edge: the camera's program."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from edge.settings import read
from shared import heap
from shared.clock import SystemClock
from shared.crash import Watch
from shared.errors import HoneError
from shared.mqtt import password_is_open, read_password

EPILOG = """\
A camera needs an edge.toml, the password of its broker account and the hub's public root key:

  camera = "berlin/press-1"
  project = "cells"
  root_key = "…64 hex digits, printed by: hone-hub keys"
  [capture]
  source = "/var/spool/pictures"
  watch = true
  [mqtt]
  host = "hub.plant.example"
  password_file = "password"

docs/operations.md has every key, and the systemd unit.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hone-edge",
        description="Hone on a camera: classify frames, send the unsure ones to the hub, take new releases.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (("run", "run the agent"), ("check", "check the configuration and end")):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.add_argument(
            "--config", type=Path, default=Path("edge.toml"), help="settings file (default: edge.toml)"
        )
        command.add_argument("--verbose", action="store_true", help="log every event")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. Errors of ours end it with one clear line."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(threadName)s: %(message)s",
    )
    try:
        settings = read(arguments.config)
        if arguments.command == "check":
            read_password(settings.mqtt)
            if password_is_open(settings.mqtt):
                sys.stderr.write(
                    f"hone-edge: warning: {settings.mqtt.password_file}: every user of this machine can read the "
                    f"password. Run: chmod o= {settings.mqtt.password_file}\n"
                )
            sys.stdout.write(f"{arguments.config} is good: camera {settings.camera}, project {settings.project}\n")
            return 0
        from edge.agent import Agent

        agent = Agent(settings, SystemClock())
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, lambda *_: agent.stop())
        watch = Watch(agent.stop)
        watch.install()
        heap.settle()
        agent.run()
    except HoneError as error:
        sys.stderr.write(f"hone-edge: {error}\n")
        return 1
    return 1 if watch.happened else 0


if __name__ == "__main__":
    sys.exit(main())
