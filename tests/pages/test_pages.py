"""The pages people open, in a real Chromium: on a phone, at a desk, offline, without scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.parts import part
from tests.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, Route

WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}
PAGES = ("problems", "problems/insufficient-funds", "problems/outcome-unknown", "docs")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    ledger = tmp_path_factory.mktemp("pages") / "teller.db"
    with serving(f"sqlite+aiosqlite:///{ledger}") as server:
        yield server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = part("chromium", "apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=list(WIDTHS.values()), ids=list(WIDTHS))
def page(browser: Browser, base: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page whose every way out of the service is cut, and which may not complain."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
    complaints: list[str] = []

    def no_internet(route: Route) -> None:
        if route.request.url.startswith((base, "data:")):
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    context.route("**/*", no_internet)
    opened = context.new_page()
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    # Chromium says of an answer like this one what the page shows anyway.
    assert [said for said in complaints if "status of 404" not in said] == []


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_its_screen_and_asks_nobody_else(page: Page, base: str, path: str) -> None:
    page.goto(f"{base}/{path}")
    page.wait_for_selector("h1, .opblock")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize) >= 14")


def test_docs_show_every_operation_without_the_internet(page: Page, base: str) -> None:
    page.goto(f"{base}/docs")
    page.wait_for_selector(".opblock")
    shown = page.locator(".opblock-summary-path").all_inner_texts()
    paths = {path.replace("\u200b", "") for path in shown}
    assert {
        *("/deposit", "/withdraw", "/balance", "/transactions", "/operation"),
        "/transactions/{seq}",
    } <= paths


def test_docs_send_a_deposit_and_show_its_answer(page: Page, base: str) -> None:
    page.goto(f"{base}/docs")
    page.locator(".opblock-summary-path", has_text="/deposit").first.click()
    page.get_by_role("button", name="Try it out").click()
    for field, value in (("user_id", "nobody"), ("Idempotency-Key", "from-the-page")):
        page.locator(f'tr[data-param-name="{field}"] input').first.fill(value)
    page.get_by_role("button", name="Execute").click()
    answer = page.locator(".live-responses-table .response-col_status").last
    answer.wait_for()
    assert answer.inner_text().startswith("404")


def test_a_problem_s_page_needs_no_scripts_and_says_what_to_do(browser: Browser, base: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{base}/problems")
    page.get_by_role("link", name="outcome-unknown").click()
    assert page.title() == "The result of the commit is not known - Teller"
    text = page.inner_text("main")
    assert "What happened to the money" in text
    assert "Retry with the same key." in text
    context.close()
