"""A hub with a past for each test, and one real browser for all."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, sync_playwright

from hub.web.app import create_app
from tests.hub.web.seed import Seeded, reopen, seed, serve

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a seeded hub, to copy."""
    folder = tmp_path_factory.mktemp("past") / "hub"
    seed(folder, images=24).store.close()
    return folder


@pytest.fixture
def made(past: Path, tmp_path: Path) -> Iterator[Seeded]:
    one = reopen(Path(shutil.copytree(past, tmp_path / "hub")))
    yield one
    one.store.close()


@pytest.fixture
def web(made: Seeded) -> TestClient:
    """The application without a server; every request comes from this machine."""
    app = create_app(made.settings, made.store, made.desk, made.actions, made.clock)
    return TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def url(made: Seeded) -> Iterator[str]:
    """The address of the seeded hub's real server."""
    server = serve(made)
    yield server.url
    server.stop()


class Watched:
    """A page and what it should not have done."""

    def __init__(self, page: Page, host: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        page.on("console", lambda one: self.complaints.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith((host, "blob:")) else self.foreign.append(one.url))


@pytest.fixture
def open_page(chromium: Browser, url: str) -> Iterator[Callable[..., Watched]]:
    """Open a path at a width, as an operator with a name; asserts at the end that no page complained."""
    contexts, watched = [], []

    def go(
        path: str, *, width: int = 1280, height: int = 800, operator: str | None = "Mira", strict: bool = True
    ) -> Watched:
        context = chromium.new_context(viewport={"width": width, "height": height}, service_workers="block")
        contexts.append(context)
        context.set_default_timeout(5000)
        if operator:
            context.add_init_script(f"localStorage.setItem('hone.operator', '{operator}')")
        one = Watched(context.new_page(), url)
        if strict:
            watched.append(one)
        one.page.goto(url + path)
        return one

    yield go
    for context in contexts:
        context.close()
    for one in watched:
        assert one.complaints == []
        assert one.foreign == []
