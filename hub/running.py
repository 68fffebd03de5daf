"""Commands that the running hub carries out, since only it signs and publishes: asked for through its own API."""

import argparse
import json
import sys
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from hub.settings import find_config, read
from shared.errors import ConfigError, StoreError
from shared.ids import check_camera

ACTIONS = ("status", "pause", "resume", "promote", "abort")
DONE = {
    "pause": "the rollout is held",
    "resume": "the rollout goes on",
    "promote": "the rollout is in its next stage",
    "abort": "the rollout is aborted",
}


def release(arguments: argparse.Namespace) -> int:
    """Release the model of a finished run."""
    body = {"run": arguments.run, "note": arguments.note, "start": not arguments.draft}
    answer = _ask(arguments, "POST", "/api/releases", body)
    _say(f"release {answer['id']} is {'a draft: hone-hub rollout resume' if arguments.draft else 'on its way'}")
    return 0


def rollout(arguments: argparse.Namespace) -> int:
    """Tell where the rollout is, or have it paused, resumed, promoted or aborted."""
    if arguments.action == "status":
        _say("\n".join(told(_ask(arguments, "GET", "/api/rollout", None))))
        return 0
    if arguments.action == "abort" and not arguments.why.strip():
        raise ConfigError("needs a reason", subject="rollout abort", remedy="Say why: --why TEXT")
    _ask(
        arguments,
        "POST",
        f"/api/rollout/{arguments.action}",
        {"why": arguments.why} if arguments.action == "abort" else {},
    )
    _say(DONE[arguments.action])
    return 0


def exempt(arguments: argparse.Namespace) -> int:
    """Have a camera run a release whatever the rollout says, or end that."""
    camera = check_camera(arguments.camera)
    if arguments.end == (arguments.release is not None):
        raise ConfigError("needs a release, or --end", subject=f"exemption of {camera}")
    if not arguments.end and not arguments.reason.strip():
        raise ConfigError("needs a reason", subject=f"exemption of {camera}", remedy="Say why: --reason TEXT")
    number = 0 if arguments.end else arguments.release
    body = {"release": number, "reason": arguments.reason or "ended", "operator": arguments.by}
    _ask(arguments, "POST", f"/api/cameras/{camera}/exemption", body)
    _say(f"{camera} goes by the rollout again" if arguments.end else f"{camera} runs release {number} by exemption")
    return 0


def told(found: dict[str, Any]) -> list[str]:
    """A rollout, as /api/rollout describes it, in lines to read."""
    marks = {"past": "{}", "now": "[{}]", "stopped": "!{}!", "next": "({})"}
    lines = [found["words"], " > ".join(marks[one["place"]].format(one["title"]) for one in found["stages"])]
    lines += [found["gone"]] if found["gone"] else []
    lines += [f"waits: {found['waits_for']}"] if found["waits_for"] and found["state"] == "running" else []
    lines += [f"next: {found['next']}"] if found["next"] else []
    if (proof := found["proof"]) is not None:
        lines.append(
            f"{proof['frames']} frames judged by both; release {found['release']} right on {proof['mended']}, "
            f"release {found['previous']} on {proof['broken']}, neither on {proof['tied']}; {proof['waiting']} wait "
            f"for a label, {proof['coming']} for their camera"
        )
        lines.append(f"proof that it is safe {proof['safety_progress']:.0%}, worse {proof['harm_progress']:.0%}")
    lines += [f"skipped by {camera}: {why}" for camera, why in found["skipping"].items()]
    lines += [f"exempt: {one['camera']} runs release {one['release']}: {one['reason']}" for one in found["exemptions"]]
    return lines


# -- below the surface


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _ask(arguments: argparse.Namespace, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """The answer of the running hub; StoreError with its words when it refuses, or when none is there."""
    web = read(find_config(arguments.config)).web
    if not web.port:
        raise ConfigError("web.port is 0, so the hub's page has no fixed address", remedy="Set it in hub.toml")
    url = f"http://{f'[{web.host}]' if ':' in web.host else web.host}:{web.port}{path}"
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=30) as answer:
            result: dict[str, Any] = json.load(answer)
            return result
    except HTTPError as error:
        try:
            said = str(json.load(error)["message"])
        except (ValueError, KeyError, TypeError):
            said = str(error)
        raise StoreError(said, subject=path) from error
    except (URLError, OSError) as error:
        raise StoreError(f"no hub answers ({error})", subject=url, remedy="Start it: hone-hub serve") from error
