"""The built book in a real browser.

Looks at ``book/_build/html`` (or ``EOSLIB_BOOK_HTML``) with Debian's chromium (or ``EOSLIB_CHROMIUM``).  Where either
is absent these tests fail in CI; on a developer's machine they are skipped with a warning that cannot be overlooked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import os
import shutil
import threading
import warnings
from pathlib import Path

import pytest
from browsing import DESKTOP, FLAGS, PATIENCE, SETTLED

ROOT = Path(__file__).resolve().parents[2]


class BookNotChecked(UserWarning):
    """The book was not looked at."""


def unavailable(reason: str):
    """Fail in CI; elsewhere warn and skip."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so the book must be checked)")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"THE BOOK WAS NOT CHECKED IN A BROWSER: {reason}", BookNotChecked, stacklevel=2)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def site() -> Path:
    """Folder of the built book."""
    folder = Path(os.environ.get("EOSLIB_BOOK_HTML") or ROOT / "book" / "_build" / "html")
    if not (folder / "intro.html").is_file():
        unavailable(f"{folder} holds no built book; run `make book` first")
    return folder


@pytest.fixture(scope="session")
def pages(site) -> list[str]:
    """Every page of the book, by its path inside the site; no redirect, and two of the many listings of source code."""
    names = sorted(str(path.relative_to(site)) for path in site.rglob("*.html") if "_static" not in path.parts)
    listings = [name for name in names if name.startswith("_modules/")]
    names = [name for name in names if name not in listings[2:]]
    return [name for name in names if 'http-equiv="Refresh"' not in (site / name).read_text(encoding="utf-8")]


@pytest.fixture(scope="session")
def browser():
    """One chromium for the session."""
    executable = os.environ.get("EOSLIB_CHROMIUM") or shutil.which("chromium")
    if not executable:
        unavailable("no chromium found; install Debian's `chromium` or set EOSLIB_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()


@dataclasses.dataclass
class Complaints:
    """What a page did that it should not have done."""

    external: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    def listen(self, page) -> None:
        page.on("request", self._request)
        page.on("requestfailed", self._failed)
        page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        page.on("console", lambda told: self.errors.append(f"console: {told.text}") if told.type == "error" else None)

    def _failed(self, request) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # the reader went on before it was there
            self.errors.append(f"failed: {request.url} ({request.failure})")

    def _request(self, request) -> None:
        local = ("file://", "data:", "blob:", "http://localhost:", "http://127.0.0.1:")
        if not request.url.startswith(local):
            self.external.append(request.url)


@pytest.fixture(scope="session")
def visit(browser, site):
    """How pages are opened for longer than a test: gives a context manager over the function of ``open_page``."""

    @contextlib.contextmanager
    def visit_(**defaults):
        with contextlib.ExitStack() as stack:

            def open_(name: str, page=None, *, base: str | None = None, **context):
                if page is None:
                    holder = browser.new_context(**({"viewport": DESKTOP} | defaults | context))
                    holder.set_default_timeout(PATIENCE)
                    stack.callback(holder.close)
                    page = holder.new_page()
                    page.complaints = Complaints()
                    page.complaints.listen(page)
                page.goto(f"{base}/{name}" if base else (site / name).as_uri(), wait_until="load")
                page.evaluate(SETTLED)
                return page

            yield open_

    return visit_


@pytest.fixture
def open_page(visit):
    """``open_page("intro.html", viewport=PHONE)`` → a settled page; ``page.complaints`` is what it did wrong."""
    with visit() as open_:
        yield open_


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def server(site):
    """Address of the book served over HTTP on a free port of this machine."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()
