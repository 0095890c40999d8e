"""The report in a real browser: it needs nothing but itself, and shows every text as a text."""

import shutil

import pytest
from small_run import SEEDS, candidate, logged, rejected, small_run

from serl_trl.report.page import write_report


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "</table><img src=x onerror=alert(3)>",
    "\" onmouseover='alert(4)' {{ 7 * 7 }} $x^2$ &amp;",
    "</svg></style><svg onload=alert(5)>",
]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on PATH")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Return a function that opens a file, and the list of all that the page said, asked for and tried."""
    contexts, events = [], []

    def open_file(path, width=1280, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: events.append(message.text))
        page.on("pageerror", lambda error: events.append(str(error)))
        page.on("dialog", lambda dialog: (events.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: events.append(request.url))
        page.goto(path.resolve().as_uri())
        return page

    yield open_file, events
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_asks_for_nothing_and_fits_the_screen(tmp_path, opened, width, scheme):
    open_file, events = opened
    path = write_report(small_run(tmp_path / "run"))
    page = open_file(path, width, scheme)
    assert events == [path.resolve().as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure svg").count() == 7  # three curves, near the seeds, three thirds
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert dark == (scheme == "dark")


def test_untrusted_texts_stay_texts(tmp_path, opened):
    open_file, events = opened
    rows = [
        candidate(n, n, text, pseudo_label=text, answers=[text, None, text, "5"]) for n, text in enumerate(HOSTILE)
    ]
    rows += [rejected(n + 5, n, text, nearest=text) for n, text in enumerate(HOSTILE)]
    evaluated = {f"eval_{HOSTILE[0]}_pass@1{end}": 0.5 for end in ("", "_low", "_high")}
    log = [logged(1) | evaluated, logged(2) | evaluated]
    path = write_report(small_run(tmp_path / HOSTILE[1].replace("/", ""), rows, log))
    page = open_file(path)
    cells = page.locator("#instructions tbody tr")
    assert [cells.nth(n).locator("td").nth(1).text_content() for n in range(5)] == HOSTILE
    assert [cells.nth(n).locator("td").nth(2).text_content() for n in range(5)] == HOSTILE
    assert page.evaluate("document.scripts.length") == 1 and page.locator("img, svg[onload], b[onload]").count() == 0
    assert events == [path.resolve().as_uri()]


def test_instructions_are_filtered_and_sorted(tmp_path, opened):
    open_file, _ = opened
    rates = {"apples": 0.5, "pears": 0.25, "plums and pears": 1.0}
    rows = [candidate(9 + n, n, text, pass_rate=rate) for n, (text, rate) in enumerate(rates.items())]
    page = open_file(write_report(small_run(tmp_path / "run", rows)))
    shown = page.locator("#instructions tbody tr:visible td:nth-child(2)")

    def press(name):
        page.get_by_role("button", name=name).click()

    page.get_by_role("searchbox").fill("PEARS")
    assert shown.all_text_contents() == ["pears", "plums and pears"]
    assert page.locator("#instructions-count").text_content() == "2"
    page.get_by_role("searchbox").fill("")
    press("pass rate")
    assert shown.all_text_contents() == ["pears", "apples", "plums and pears"]
    press("pass rate")
    assert shown.all_text_contents() == ["plums and pears", "apples", "pears"]
    press("pseudo-label")  # 9, 10, 11: numbers, not texts
    assert shown.all_text_contents() == list(rates)


def test_runs_lie_beside_each_other(tmp_path, opened):
    open_file, _ = opened
    small_run(tmp_path / "one"), small_run(tmp_path / "other", [candidate(0, 0, SEEDS[0])], [])
    page = open_file(write_report(tmp_path / "one", tmp_path / "other"))
    names = [f"{tmp_path.name}/one", f"{tmp_path.name}/other"]
    assert page.locator("h1").text_content() == ", ".join(names)
    assert page.locator("#runs tbody td:first-child").all_text_contents() == names
    assert page.locator("#instructions tbody tr").count() == 36 + 1
