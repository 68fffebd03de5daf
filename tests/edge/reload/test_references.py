"""References of a release: fetched with it, kept beside the backbone, checked before the swap."""

from dataclasses import replace

import numpy as np
import pytest

from shared.files import sha256_hex
from shared.references import encode as encode_references
from tests.edge.reload.camera import ONE, THREE, TWO, MakeCamera, blobs
from tests.fakes.bus import FakeBroker
from tests.fakes.hub import Registry


def test_references_come_with_the_release_and_stay_for_the_next_head(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera
) -> None:
    rows = np.eye(3, dtype=np.float32)
    one, two = replace(ONE, references=encode_references(rows)), replace(TWO, references=encode_references(rows))
    hub.release(1, one)
    hub.plan(1)
    camera = make_camera()
    camera.wait_release(1)
    running = camera.engine.running
    assert running is not None
    assert running.facts.references is not None
    assert running.facts.references.tolist() == rows.tolist()
    assert (running.facts.backbone, running.facts.head) == (sha256_hex(ONE.backbone), ONE.head)
    hub.release(2, two)
    camera.asked.clear()
    hub.plan(2)
    camera.wait_release(2)
    assert blobs(camera.asked) == {sha256_hex(TWO.head)}
    hub.release(3, THREE)
    hub.plan(3)
    camera.wait_release(3)
    assert camera.engine.running is not None
    assert camera.engine.running.facts.references is None, "a release without them"


@pytest.mark.parametrize("data", [b"even", bytes(6)])
def test_references_that_mean_nothing_fail_the_release(hub: Registry, make_camera: MakeCamera, data: bytes) -> None:
    hub.release(1, ONE)
    hub.plan(1)
    camera = make_camera()
    camera.wait_release(1)
    hub.release(2, replace(TWO, references=data))
    hub.plan(2)
    camera.wait_failed("references part")
    assert camera.release == 1
