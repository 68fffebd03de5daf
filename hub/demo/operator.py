"""The scripted operator: looks at the image that the page would show, knows the truth, and answers by the same API."""

import threading
import time
from collections.abc import Mapping

import httpx

from shared.errors import HoneError
from shared.files import sha256_hex

NAME = "script"


class Operator:
    """A thread that labels at a human pace, up to a budget. truth: sha256 of an image file -> class name; it may grow.

    What a rollout waits for is settled beyond the budget, too.
    """

    def __init__(self, url: str, truth: Mapping[str, str], *, budget: int, seconds_each: float) -> None:
        self._url = url
        self._truth = truth
        self._budget = budget
        self._seconds = seconds_each
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)
        self.labels = 0
        self.error = ""

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self.labels >= self._budget

    def start(self) -> None:
        """Sit down at the desk."""
        self._thread.start()

    def stop(self) -> None:
        """Go home."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    labelled = self._label_one(client)
                except (httpx.HTTPError, HoneError, LookupError, TypeError) as error:
                    self.error = f"the scripted operator gave up: {error}"
                    return
                self.labels += labelled
                self._stop.wait(max(0.0, self._seconds - (time.monotonic() - began)))

    def _label_one(self, client: httpx.Client) -> bool:
        """Label the image that comes next; False when none waits."""
        items = client.get("/api/queue", params={"count": 1}).raise_for_status().json()["items"]
        if not items or (self.done and not items[0]["urgent"]):
            return False
        image = client.get(items[0]["url"]).raise_for_status().content
        name = self._truth.get(sha256_hex(image))
        if name is None:
            raise HoneError("is not an image of the demo", subject=f"image {items[0]['id']}")
        answer = {"image": items[0]["id"], "name": name, "operator": NAME, "ask": items[0]["ask"]}
        client.post("/api/labels", json=answer).raise_for_status()
        return True
