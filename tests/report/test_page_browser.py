"""The page in a browser: it opens from a file, asks no network for anything, and can be worked."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import frog
from frog.report.page import comparison_page, report_page, series_page, write_page
from tests.report.synthetic import a_comparison, a_report, a_series
from tests.report.test_page import HOSTILE, hostile_pages

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PLOTS_DRAWN = "document.querySelectorAll('.plot .waiting').length === 0"
ALPHAS = "[...document.querySelectorAll('#layers-table tbody tr')].map(r => r.cells[4].innerText)"


@dataclass
class Sheet:
    """An open page, and what went wrong or out of it."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()

    def rows(self) -> int:
        self.page.wait_for_selector("#layers-table[data-whole]")
        return self.count("#layers-table tbody tr")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: frog[dev]")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs Chromium: none of {', '.join(NAMES)} on PATH, and CHROMIUM is not set")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Sheet]]:
    """Open a page from a file; at the end nothing may have failed or been asked of a network."""
    sheets = []

    def open_page(html: str, *, scheme: str = "light", width: int = 1440, hash: str = "") -> Sheet:
        path = tmp_path / f"page{len(sheets)}.html"
        write_page(html, path)
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True
        )
        sheet = Sheet(context.new_page())
        sheets.append(sheet)
        sheet.page.on("console", lambda m: sheet.problems.append(f"{m.type}: {m.text}"))
        sheet.page.on("pageerror", lambda error: sheet.problems.append(str(error)))
        sheet.page.on("request", lambda r: sheet.requests.append(r.url))
        sheet.page.goto(path.as_uri() + hash)
        sheet.page.wait_for_selector("html[data-ready]", timeout=60_000)
        sheet.page.wait_for_function(PLOTS_DRAWN, timeout=60_000)
        return sheet

    yield open_page
    for sheet in sheets:
        outside = [url for url in sheet.requests if not url.startswith(("file:", "data:", "blob:"))]
        sheet.page.context.close()
        assert not sheet.problems
        assert not outside


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(a_report(4))


def test_a_real_report_opens(visit: Callable[..., Sheet], resnet20: Path) -> None:
    report = frog.analyze(resnet20, frog.Settings(bootstrap=20))
    sheet = visit(report_page(report))
    assert sheet.rows() == len(report.measured)
    assert sheet.count("#map .cell") >= 9
    assert sheet.count("#depth-plot svg.main-svg") >= 1


def test_sorting(visit: Callable[..., Sheet], page: str) -> None:
    sheet = visit(page)
    alphas = sorted(f"{x.values['alpha']:.2f}" for x in a_report(4).measured)
    alphas.sort(key=float)
    head = sheet.page.locator("#layers-table th button[data-column=alpha]")
    head.click()
    assert sheet.page.evaluate(ALPHAS) == alphas
    assert head.locator("xpath=..").get_attribute("aria-sort") == "ascending"
    head.focus()
    sheet.page.keyboard.press("Enter")
    assert sheet.page.evaluate(ALPHAS) == alphas[::-1]
    assert head.locator("xpath=..").get_attribute("aria-sort") == "descending"


def test_filtering_the_table(visit: Callable[..., Sheet], page: str) -> None:
    sheet, layers = visit(page), a_report(4).measured
    search = sheet.page.locator("#layers-search")
    search.fill("DOWN_proj")
    assert sheet.rows() == 4
    assert sheet.page.locator("#layers-count").inner_text() == f"4 of {len(layers)} layers"
    search.fill(r"layers\.[01]\..*(q|k)_proj")
    assert sheet.rows() == 0
    sheet.page.locator("#layers-regex").check()
    assert sheet.rows() == 4
    search.fill("(")
    assert search.get_attribute("aria-invalid") == "true"
    assert sheet.rows() == 4, "what is no expression changes nothing"
    search.fill("")
    word = next(x.condition for x in layers if x.condition != "fine")
    sheet.page.locator("#layers-condition").select_option(word)
    assert sheet.rows() == sum(x.condition == word for x in layers)


def test_choosing_columns(visit: Callable[..., Sheet], page: str) -> None:
    sheet = visit(page)
    before = sheet.count("#layers-table thead th")
    sheet.page.locator(".chooser summary").click()
    sheet.page.locator(".chooser input[data-column=entropy]").check()
    assert sheet.count("#layers-table thead th") == before + 1
    assert sheet.count("#layers-table th button[data-column=entropy]") == 1


def test_saving_the_rows(visit: Callable[..., Sheet], page: str) -> None:
    sheet = visit(page)
    sheet.page.locator("#layers-search").fill("down_proj")
    with sheet.page.expect_download() as download:
        sheet.page.locator("#layers-csv").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    wanted = [x for x in a_report(4).measured if x.role == "down"]
    assert [row["tensor"] for row in rows] == [x.name for x in wanted]
    assert [float(row["alpha"]) for row in rows] == [x.values["alpha"] for x in wanted]
    assert rows[0]["shape"] == "5504×2048" and "–" in rows[0]["interval"]


def test_filtering_the_findings(visit: Callable[..., Sheet], page: str) -> None:
    sheet, findings = visit(page), a_report(4).findings
    sheet.page.locator("#finding-severity").select_option("warning")
    n = sum(finding.severity == "warning" for finding in findings)
    assert sheet.page.locator("#finding-count").inner_text() == f"{n} of {len(findings)} findings"
    assert sheet.count("details.group:not([hidden])[data-severity=info]") == 0


def test_a_drawer_by_mouse(visit: Callable[..., Sheet], page: str) -> None:
    sheet = visit(page)
    name = a_report(4).measured[3].name
    sheet.page.locator("#layers-table a.layer-link").nth(3).click()
    drawer = sheet.page.locator("#drawer")
    assert drawer.locator("h2").inner_text() == name
    sheet.page.wait_for_selector("#drawer-spectrum svg.main-svg")
    marks = sheet.page.evaluate(
        "document.getElementById('drawer-spectrum').layout.annotations.map(a => a.text)"
    )
    assert sorted(marks) == ["bulk edge", "xmin"]
    names = sheet.page.evaluate("document.getElementById('drawer-spectrum').data.map(t => t.name)")
    assert names[0] == "eigenvalues" and names[1].startswith("fitted tail, α ")
    sheet.page.locator("#drawer-close").click()
    assert not drawer.is_visible()
    assert "#layer" not in sheet.page.url


def test_a_drawer_by_keyboard(visit: Callable[..., Sheet], page: str) -> None:
    sheet = visit(page)
    keys = sheet.page.keyboard
    focused = "document.activeElement.dataset.at ?? document.activeElement.id"
    sheet.page.locator("#map .cell").first.focus()
    at = sheet.page.evaluate(focused)
    keys.press("ArrowRight")
    keys.press("ArrowDown")
    moved = sheet.page.evaluate(focused)
    assert moved != at
    keys.press("Enter")
    sheet.page.wait_for_selector("#drawer[open]")
    assert sheet.page.evaluate(focused) == "drawer-close"
    for _ in range(40):  # the focus stays inside, or goes to the browser's own bar
        keys.press("Tab")
        inside = (
            "document.activeElement.closest('#drawer') || document.activeElement.matches('body')"
        )
        assert sheet.page.evaluate(f"Boolean({inside})")
    keys.press("Escape")
    sheet.page.wait_for_selector("#drawer:not([open])", state="attached")
    assert sheet.page.evaluate(focused) == moved, "the focus comes back"
    keys.press("Enter")
    sheet.page.wait_for_selector("#drawer[open]")


def test_the_focus_is_always_seen(visit: Callable[..., Sheet], page: str) -> None:
    """Every stop of the Tab key has a size and is no transparent tool of a plot."""
    sheet = visit(page)
    stop = """(() => {
      const e = document.activeElement, box = e.getBoundingClientRect();
      const bar = e.closest(".modebar");
      const seen = box.width > 0 && (!bar || getComputedStyle(bar).opacity === "1");
      return [seen, e.className + e.id];
    })()"""
    names = []
    for _ in range(70):
        sheet.page.keyboard.press("Tab")
        seen, name = sheet.page.evaluate(stop)
        assert seen, name
        names.append(name)
    assert any("modebar" in name for name in names)


def test_all_ranked_layers_by_keyboard(visit: Callable[..., Sheet], page: str) -> None:
    sheet, ranking = visit(page), a_report(4).ranking
    sheet.page.locator("#ranking-more").focus()
    sheet.page.keyboard.press("Enter")
    assert sheet.page.locator(".ranking li:visible").count() == len(ranking)
    text = "document.activeElement.textContent"
    assert sheet.page.evaluate(text) == ranking[10].layer


def test_a_link_opens_its_layer(visit: Callable[..., Sheet], page: str) -> None:
    sheet = visit(page, hash="#layer=2")
    assert sheet.page.locator("#drawer h2").inner_text() == a_report(4).measured[2].name
    sheet.page.get_by_label("Next layer").click()
    assert sheet.page.locator("#drawer h2").inner_text() == a_report(4).measured[3].name


def test_changing_the_metric(visit: Callable[..., Sheet], page: str) -> None:
    sheet = visit(page)
    first = sheet.page.locator("#map .cell").first
    alpha = first.inner_text()
    sheet.page.locator("#map-metric").select_option("stable_rank")
    layer = a_report(4).measured[1]
    assert first.inner_text() != alpha
    assert float(first.inner_text().split("\n")[0].strip("▲▼△▽")) == pytest.approx(
        layer.values["stable_rank"], abs=0.06
    )
    sheet.page.locator("#depth-metric").select_option("D")
    sheet.page.wait_for_function("document.getElementById('depth-plot').layout.shapes.length === 0")
    lines = sheet.page.evaluate(
        "document.getElementById('depth-plot').data.filter(t => t.mode === 'lines+markers')"
    )
    values = [x.values["D"] for x in a_report(4).measured if x.role == "q"]
    assert next(t for t in lines if t["name"] == "q")["y"] == pytest.approx(values)


def test_the_lines_over_depth_have_bands_and_the_usual_range(
    visit: Callable[..., Sheet], page: str
) -> None:
    sheet = visit(page)
    plot = "document.getElementById('depth-plot')"
    traces = sheet.page.evaluate(f"{plot}.data.map(t => [t.mode, t.fill ?? ''])")
    assert traces.count(["lines", "toself"]) == 7
    assert traces.count(["lines+markers", ""]) == 7
    assert sheet.page.evaluate(f"{plot}.layout.shapes.map(s => [s.y0, s.y1])") == [[2, 6]] * 7
    sheet.page.locator("#depth-layout").select_option("together")
    sheet.page.wait_for_function(f"{plot}.layout.shapes.length === 1")


def test_an_axis_names_every_block_once(visit: Callable[..., Sheet]) -> None:
    sheet = visit(report_page(a_report(3)))
    ticks = "document.querySelectorAll('#{} g[class^=x][class$=tick] text')"
    texts = f"[...{ticks}].map(t => t.textContent)"
    labels = sheet.page.evaluate(texts.format("depth-plot"))
    assert labels == ["0", "1", "2"] * 7
    assert sheet.page.evaluate(texts.format("flow-plot")) == ["0", "1", "2"]


def test_the_theme_follows_the_button_and_the_plots_follow_the_theme(
    visit: Callable[..., Sheet], page: str
) -> None:
    sheet = visit(page, scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "document.getElementById('depth-plot').layout.font.color"
    dark = sheet.page.evaluate(ground), sheet.page.evaluate(ink)
    sheet.page.locator("#theme").click()
    sheet.page.wait_for_function(f"{ink} !== '{dark[1]}'")
    light = sheet.page.evaluate(ground), sheet.page.evaluate(ink)
    assert light[0] != dark[0]
    sheet.page.locator("#theme").click()
    sheet.page.wait_for_function(f"{ink} === '{dark[1]}'")
    assert sheet.page.evaluate(ground) == dark[0]


def test_the_scatter(visit: Callable[..., Sheet], page: str) -> None:
    sheet, layers = visit(page), a_report(4).measured
    plot = "document.getElementById('scatter-plot')"
    traces = sheet.page.evaluate(
        f"{plot}.data.map(t => ({{x: t.x, y: t.y, at: t.customdata, name: t.name}}))"
    )
    points = {at: (x, y) for t in traces for x, y, at in zip(t["x"], t["y"], t["at"], strict=True)}
    assert points == {
        i: (layer.values["log_spectral_norm"], layer.values["alpha"])
        for i, layer in enumerate(layers)
    }
    looks = sheet.page.evaluate(f"{plot}.data.map(t => t.marker.color + t.marker.symbol)")
    assert len(set(looks)) == len(looks) == len({layer.role for layer in layers})
    sheet.page.evaluate(f"{plot}.emit('plotly_click', {{points: [{{customdata: 3}}]}})")
    sheet.page.wait_for_selector("#drawer[open]")
    assert sheet.page.locator("#drawer h2").inner_text() == layers[3].name


def test_a_frame_in_the_scatter_filters_the_table(visit: Callable[..., Sheet], page: str) -> None:
    sheet, layers = visit(page), a_report(4).measured
    sheet.page.locator("#scatter-plot").scroll_into_view_if_needed()
    area = sheet.page.locator("#scatter-plot .nsewdrag").bounding_box()
    assert area is not None
    top, middle = area["y"] + 2, area["y"] + area["height"] / 2
    mouse = sheet.page.mouse
    mouse.move(area["x"] + 2, top)
    mouse.down()
    mouse.move(area["x"] + area["width"] - 2, middle, steps=5)
    mouse.up()
    sheet.page.wait_for_selector("#layers-all:not([hidden])")
    low, high = sheet.page.evaluate("document.getElementById('scatter-plot').layout.yaxis.range")
    above = [x for x in layers if x.values["alpha"] > (low + high) / 2]
    assert 0 < len(above) < len(layers)
    assert sheet.rows() == len(above)
    sheet.page.locator("#theme").click()  # drawn anew: the choice stays
    assert sheet.rows() == len(above)
    sheet.page.locator("#layers-all").click()
    assert sheet.rows() == len(layers)
    assert not sheet.page.locator("#layers-all").is_visible()


def test_the_graph(visit: Callable[..., Sheet], page: str) -> None:
    sheet, report = visit(page), a_report(4)
    assert sheet.count("#flow-plot svg.main-svg") >= 1
    assert sheet.count("#flow-paths li") == len(report.pathways)
    told = sheet.page.locator("#flow-count")
    least = float(sheet.page.locator("#flow-z").input_value())
    above = sum(pair.overlaps["trimmed"].z >= least for pair in report.pairs)
    assert 0 < above < len(report.pairs)
    assert told.inner_text() == f"{above} of {len(report.pairs)} edges"
    sheet.page.locator("#flow-z").fill("0")
    sheet.page.locator("#flow-z").press("Enter")
    assert told.inner_text() == f"{len(report.pairs)} of {len(report.pairs)} edges"
    sheet.page.locator("#flow-paths a.layer-link").first.click()
    sheet.page.wait_for_selector("#drawer[open]")
    assert "Pathways" in sheet.page.locator("#drawer").inner_text()


def test_nothing_is_wider_than_a_narrow_window(visit: Callable[..., Sheet], page: str) -> None:
    for html in (page, comparison_page(a_comparison(2)), series_page(a_series(3, 2))):
        sheet = visit(html, width=380)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert sheet.page.evaluate(wide) <= 0


def test_cells_lose_their_numbers_where_there_is_no_room(visit: Callable[..., Sheet]) -> None:
    sheet = visit(report_page(a_report(16, flow=False)))
    assert sheet.count("#map .map.narrow") == 0
    sheet.page.set_viewport_size({"width": 500, "height": 900})
    sheet.page.wait_for_selector("#map .map.narrow")
    cell = sheet.page.locator("#map .cell").first
    assert "α" in (cell.get_attribute("aria-label") or ""), "the number is still read aloud"


def test_on_paper(visit: Callable[..., Sheet], page: str, tmp_path: Path) -> None:
    sheet = visit(page, scheme="dark")
    path = tmp_path / "page.pdf"
    sheet.page.pdf(path=str(path), format="A4")
    assert path.read_bytes().startswith(b"%PDF")
    assert sheet.page.evaluate("document.documentElement.dataset.theme ?? 'system'") == "system"


def test_tables_fit_on_paper(visit: Callable[..., Sheet], page: str) -> None:
    """A4 less its margins is 703 pixels wide; what is wider would shrink the whole page."""
    for html in (page, comparison_page(a_comparison(2)), series_page(a_series(4, 2))):
        sheet = visit(html, width=703)
        sheet.page.emulate_media(media="print")
        right = (
            "[...document.querySelectorAll('main table')].map(t => t.getBoundingClientRect().right)"
        )
        assert max(sheet.page.evaluate(right)) <= 703


def test_a_comparison(visit: Callable[..., Sheet]) -> None:
    comparison = a_comparison(3)
    sheet = visit(comparison_page(comparison))
    assert comparison.verdict in sheet.page.locator("#verdict").inner_text()
    most = max(comparison.layers, key=lambda x: abs(x.change["alpha"]))
    glance = sheet.page.locator("#verdict .numbers").inner_text()
    assert "look closer" in glance and f"{abs(most.change['alpha']):.3g}" in glance
    assert sheet.rows() == len(comparison.layers)
    assert sheet.count("#largest-plot svg.main-svg") >= 1
    sheet.page.locator("#map-metric").select_option("drift")
    sheet.page.locator("#layers-table a.layer-link").nth(2).click()
    sheet.page.wait_for_selector("#drawer-spectrum svg.main-svg")
    names = sheet.page.evaluate("document.getElementById('drawer-spectrum').data.map(t => t.name)")
    assert [name.split(":")[0] for name in names] == ["before", "before", "after", "after"]
    sheet.page.keyboard.press("Escape")
    sheet.page.locator("#layers-search").fill("q_proj")
    assert sheet.rows() == 3


def test_a_series(visit: Callable[..., Sheet]) -> None:
    series = a_series(4, 2)
    sheet = visit(series_page(series))
    assert sheet.count("#members tbody tr[data-member]") == 4
    first = sheet.page.locator("#map .cell").first
    last_member = first.inner_text()
    sheet.page.locator("#members button[data-member='0']").click()
    assert first.inner_text() != last_member
    assert sheet.page.locator("#map-member").input_value() == "0"
    sheet.page.locator("#steps-metric").select_option("stable_rank")
    sheet.page.wait_for_function(
        "document.getElementById('steps-plot').layout.yaxis.title.text === 'stable rank'"
    )
    sheet.page.locator("#layers-table a.layer-link").nth(1).click()
    sheet.page.wait_for_selector("#drawer-spectrum svg.main-svg")
    y = sheet.page.evaluate("document.getElementById('drawer-spectrum').data[0].y")
    wanted = [report.measured[1].values["alpha"] for report in series.reports]
    assert y == pytest.approx(wanted, rel=1e-6)


def test_five_hundred_layers(visit: Callable[..., Sheet]) -> None:
    report = a_report(72)
    html = report_page(report)
    assert len(html.encode()) < 6e6
    sheet = visit(html)
    assert sheet.rows() == len(report.measured)
    sheet.page.locator("#layers-search").fill("layers.71.")
    assert sheet.rows() == 7


def test_several_layers_in_a_cell_show_their_median_and_open_a_list(
    visit: Callable[..., Sheet],
) -> None:
    report = a_report(2, flow=False)
    gate = next(x for x in report.layers if x.role == "gate")
    experts = [
        replace(
            gate, name=f"model.layers.0.experts.{i}.gate", values={**gate.values, "alpha": 2.0 + i}
        )
        for i in range(3)
    ]
    kept = [x for x in report.layers if x is not gate]
    sheet = visit(report_page(replace(report, layers=(*experts, *kept))))
    cell = sheet.page.locator("#map .cell[aria-label*='median of 3 layers']")
    assert cell.inner_text().startswith("3.00")
    cell.click()
    rows = sheet.page.locator("#listing li").all_inner_texts()
    assert [row.split()[-1] for row in rows] == ["2.00", "3.00", "4.00"]
    sheet.page.locator("#listing a").nth(2).click()
    assert sheet.page.locator("#drawer h2").inner_text() == experts[2].name


def test_towers_have_rows_of_their_own(visit: Callable[..., Sheet]) -> None:
    report = a_report(2, flow=False)
    other = tuple(
        replace(x, name=x.name.replace("model.", "vision."))
        for x in report.measured
        if x.block is not None
    )
    sheet = visit(report_page(replace(report, layers=report.layers + other)))
    rows = sheet.page.locator("#map tbody th").all_inner_texts()
    assert rows[0] == "model.layers q" and rows[7] == "vision.layers q" and len(rows) == 14


def test_a_browser_that_cannot_unpack_shows_everything_else(
    browser: Any, page: str, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    write_page(page, path)
    context = browser.new_context(offline=True)
    context.add_init_script("delete window.DecompressionStream")
    old = context.new_page()
    old.goto(path.as_uri())
    old.wait_for_function("document.body.innerText.includes('cannot unpack the plots')")
    assert old.locator("#layers-table tbody tr").count() == len(a_report(4).measured)
    context.close()


@pytest.mark.parametrize("which", ["report", "comparison", "series"])
def test_hostile_names_do_nothing(visit: Callable[..., Sheet], which: str) -> None:
    sheet = visit(hostile_pages()[which], hash="#layer=0")
    assert "<script>alert(1)</script>" in sheet.page.locator("#drawer h2").inner_text()
    assert sheet.count("img") == 0
    assert HOSTILE[:20] in sheet.page.locator("#layers-table").inner_text().replace("\n", "") or (
        "<script>" in sheet.page.locator("#layers-table").inner_text()
    )
