"""The page: one file that needs nothing, holds what was found, and reads well in a real browser, narrow, wide and dark."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention import parity, spec
from attention.parity.contracts import backends
from attention.parity.contracts.check import check_probe, expect, verdicts
from attention.parity.mutations import operators
from attention.parity.numerics.error_maps import BINS, MOST, Picture, histogram, of
from attention.parity.rendering import charts, code_panes, html
from attention.parity.results.report import Report, Row
from attention.parity.tracing import Coverage, Divergence, Event, TimelineRow
from attention.parity.tracing.array_difference import Difference
from attention.parity.tracing.source_location import Place

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SAFE = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
# Runs in the page and leaves what it measured where --dump-dom prints it.
MEASURE = """<script>
const linear = x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
const style = getComputedStyle(document.body), a = light(style.color), b = light(style.backgroundColor);
document.querySelectorAll("details").forEach(d => d.open = true);
const root = document.documentElement;
parent.document.title = JSON.stringify({ wide: root.scrollWidth - root.clientWidth, light: b,
  contrast: (Math.max(a, b) + .05) / (Math.min(a, b) + .05), pictures: document.images.length,
  broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length });
</script>"""


def reported() -> Report:
    """Return a report with a right program, a wrong one, and one that failed."""
    contract = spec.MultiHeadAttention(embed_dim=6, num_heads=2)
    probe = next(probe for probe in parity.probes(contract) if probe.name == "intermediates")
    wrong = backends.find("torch").run(operators.scale_off(probe), "auto").results
    row = Row("scale off", "intermediates", "torch", "sdpa", "float32", verdicts(wrong, expect(probe)))
    failed = Row("mine", "-", "jax", "", "float32", failure="jax raised ValueError at <model.py>:12")
    rows = (*check_probe("right", probe, ["torch"]), row, failed)
    return Report(rows, notes=("a note & more",), advice="attention compare a b")


def here() -> Place:
    """Return a line of this file: the one with this docstring."""
    return Place(__file__, here.__code__.co_firstlineno + 1, "here")


def diverged() -> Divergence:
    """Return a divergence whose first program divides where the second multiplies."""
    one, other = (Event(side, 0, op, np.zeros(2)) for side, op in (("torch", "mm"), ("jax", "dot_general")))
    div = Event("torch", 1, "div", np.asarray([[1.0, 2.0, 3.5]]), name="<b>", places=(here(),))
    mul = Event("jax", 1, "mul", np.asarray([[1.0], [2.0], [9.0]]), name="<b>", places=(here(),))
    timeline = (TimelineRow(one, other, True), TimelineRow(div, None, False, True), TimelineRow(None, mul, False, True))
    return Divergence(True, (Coverage(2, 1), Coverage(2, 1)), "different", div, mul, agreed=(one, other), timeline=timeline)


@pytest.fixture(scope="module")
def page() -> str:
    return html.page(reported(), divergence=diverged(), diagnosis="the scale is wrong")


class TestLaws:
    def test_a_histogram_counts_every_element(self) -> None:
        z = np.abs(np.random.default_rng(0).normal(size=(5, 7))) * 100
        assert sum(histogram(z)) == z.size
        assert len(histogram(z)) == BINS

    @pytest.mark.parametrize(("z", "bin_"), [(0.0, 0), (1.0, 6), (1.99, 6), (2.0, 7), (np.inf, BINS - 1)])
    def test_a_bin_is_a_power_of_two(self, z: float, bin_: int) -> None:
        assert histogram(np.asarray([z]))[bin_] == 1

    def test_a_picture_shows_the_worst_over_the_other_axes(self) -> None:
        z = np.zeros((2, 3, 5, 7))
        z[1, 2, 4, 6] = 9.0
        found = {(p.rows, p.columns): p.values for p in of("scores", z, z, z)}
        assert found["queries", "keys and values"][4, 6] == found["query heads", "queries"][2, 4] == 9
        assert all(values.sum() == 9 for values in found.values())

    def test_a_large_picture_keeps_its_worst_element(self) -> None:
        z = np.zeros((1000, 300))
        z[777, 299] = 5.0
        (picture,) = of("d anything", z, z, z)
        assert max(picture.values.shape) == MOST
        assert picture.values.max() == 5

    def test_keys_before_queries_are_turned(self) -> None:
        z = np.zeros((4, 5, 3))
        z[3, 1, 2] = 1.0
        # (T, H, E): the picture is (heads, queries).
        (picture,) = of("context", z, z, z)
        assert picture.values.shape == (5, 4)
        assert picture.values[1, 3] == 1

    def test_a_gradient_that_agrees_keeps_no_picture(self) -> None:
        right, wrong, _ = reported().rows
        assert not any(v.pictures for v in right.verdicts if v.name.startswith("d "))
        assert any(v.pictures for v in wrong.verdicts if v.name.startswith("d ") and not v.agrees)


class TestValues:
    def test_the_page_needs_nothing_from_elsewhere(self, page: str) -> None:
        assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
        assert "<script" not in page

    def test_the_page_says_what_was_found(self, page: str) -> None:
        for text in (
            "Something differs",
            "a note &amp; more",
            "divergence (different)",
            "Return a line of this file: the one with this docstring.",
            "the scale is wrong",
            "attention compare a b",
        ):
            assert text in page
        assert page.count('<tr class="apart">') == 2

    def test_verdict_and_name_come_first_and_the_rest_is_folded(self, page: str) -> None:
        order = ["Something differs", "the scale is wrong", '<div class="panes">', "<details", "operation by operation"]
        assert [page.index(text) for text in order] == sorted(page.index(text) for text in order)
        assert page.count('<section class="pane">') == 2
        # Both lines are marked, and nothing is open that a reader did not ask for.
        assert page.count('<span class="hit">') == 2
        assert '<details class="card" open>' not in page

    def test_without_a_place_what_fails_is_open(self) -> None:
        page = html.page(reported())
        assert page.count('<details class="card" open>') == 2
        assert "First divergence" not in page

    def test_the_values_that_differ_are_shown_in_one_order_of_axes(self) -> None:
        # (1, 3) beside (3, 1): the same elements but for the last.
        assert code_panes.values(diverged()) == [{"index": "0, 2", "torch": "3.5", "jax": "9", "apart": "5.5"}]

    def test_values_of_what_a_swap_has_proven_are_those_of_its_ends(self) -> None:
        ends = Event("torch", 2, "erf", np.asarray([np.nan, 1.0])), Event("jax", 2, "tanh", np.asarray([0.0, np.nan]))
        told = code_panes.values(replace(diverged(), ends=ends))
        assert [(each["index"], each["torch"], each["jax"]) for each in told] == [("0", "nan", "0"), ("1", "1", "nan")]
        same = Event("torch", 2, "max", np.asarray([-np.inf, np.nan])), Event("jax", 2, "max", np.asarray([-np.inf, np.nan]))
        assert code_panes.values(replace(diverged(), ends=same)) == []

    def test_of_shapes_that_do_not_fit_the_worst_element_is_shown(self) -> None:
        ends = Event("torch", 2, "mul", np.zeros((2, 6))), Event("jax", 2, "mul", np.zeros((2, 2, 3)))
        found = replace(diverged(), ends=ends)
        assert code_panes.values(found) == []
        told = Difference("values", "text", {"where": (1, 2), "torch": 1.0, "jax": 3.0})
        assert code_panes.values(replace(found, difference=told)) == [{"index": "1, 2", "torch": "1", "jax": "3", "apart": "2"}]

    def test_a_pane_shows_the_code_without_its_indent(self) -> None:
        first, _ = code_panes.panes(diverged())
        assert [line["text"] for line in first["lines"] if line["marked"]] == [
            '    """Return a line of this file: the one with this docstring."""'
        ]
        assert any(line["text"].startswith("def here") for line in first["lines"])

    def test_numbers_beyond_float32_are_drawn(self) -> None:
        huge = np.full((2, 3), 1e300)
        assert all(np.isinf(picture.values).all() for picture in of("output", huge, huge, huge))

    def test_what_a_user_wrote_is_text_and_never_markup(self, page: str) -> None:
        assert "&lt;model.py&gt;:12" in page
        assert "&lt;b&gt;: div" in page

    def test_attention_maps_of_oracle_and_program_stand_side_by_side(self, page: str) -> None:
        assert page.count("weights of head 1, oracle") == page.count("weights of head 1, program") > 0

    def test_of_a_long_trace_what_is_near_the_divergence_is_shown(self) -> None:
        same = TimelineRow(Event("torch", 0, "add", np.zeros(1)), Event("jax", 0, "add", np.zeros(1)), True)
        found = diverged()
        page = html.page(divergence=replace(found, timeline=(same,) * 900 + found.timeline + (same,) * 99))
        assert page.count('<tr class="apart">') == 2
        assert "920 more operations" in page

    def test_a_report_without_trace_has_none(self) -> None:
        assert "First divergence" not in html.page(Report())

    def test_an_image_has_a_pixel_for_each_element(self) -> None:
        import base64  # noqa: PLC0415
        import io  # noqa: PLC0415

        from matplotlib.image import imread  # noqa: PLC0415

        values = np.asarray([[0.1, np.inf, 1.0], [40.0, 2.0, 0.0]], np.float32)
        drawn = charts.image(Picture("z", "rows", "columns", values))
        pixels = imread(io.BytesIO(base64.b64decode(drawn.partition(",")[2])))
        assert pixels.shape[:2] == (2, 3)
        # What is too far is red: more red than blue; what agrees is not.
        assert pixels[0, 1, 0] > 2 * pixels[0, 1, 2]
        assert pixels[0, 0, 0] < pixels[0, 0, 2]

    def test_to_html_writes_the_page(self, tmp_path: Path) -> None:
        reported().to_html(tmp_path / "deep" / "report.html")
        assert (tmp_path / "deep" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; CI installs it")
class TestBrowser:
    @staticmethod
    def measured(page: str, folder: Path, *options: str) -> dict[str, Any]:
        """Return what a headless browser found in the page."""
        return TestBrowser.run(page.replace("</body>", MEASURE + "</body>"), folder, *options)

    @staticmethod
    def run(page: str, folder: Path, *options: str) -> dict[str, Any]:
        """Return what a page that measures itself left as its title."""
        _ = (folder / "page.html").write_text(page)
        words = [
            *SAFE.split(),
            f"--user-data-dir={folder / 'profile'}",
            *options,
            "--dump-dom",
            (folder / "page.html").as_uri(),
        ]
        done = subprocess.run([str(CHROMIUM), *words], capture_output=True, text=True, check=False, timeout=120)
        title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
        assert title, done.stderr
        return json.loads(title[1].replace("&gt;", ">"))

    @pytest.mark.parametrize("size", ["390,844", "1280,900"], ids=["phone", "desk"])
    def test_nothing_sticks_out_and_every_picture_is_drawn(self, page: str, tmp_path: Path, size: str) -> None:
        found = self.measured(page, tmp_path, f"--window-size={size}")
        assert found["wide"] == 0
        assert found["pictures"] > 8
        assert found["broken"] == 0

    @pytest.mark.parametrize("planted", ["", "<div style='width:361px'>x</div>"], ids=["page", "planted"])
    def test_nothing_sticks_out_of_a_narrow_phone(self, page: str, tmp_path: Path, planted: str) -> None:
        # A window of Chromium is never so narrow, a frame is.
        page = page.replace("<main>", f"<main>{planted}")
        framed = page.replace("</body>", MEASURE + "</body>").replace("&", "&amp;").replace('"', "&quot;")
        outer = f'<title>-</title><iframe srcdoc="{framed}" style="width:360px;height:800px;border:0"></iframe>'
        assert (self.run(outer, tmp_path)["wide"] > 0) == bool(planted)

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_text_can_be_read_in_both_modes(self, page: str, tmp_path: Path, dark: bool) -> None:
        found = self.measured(page, tmp_path, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
        assert found["contrast"] > 7
        assert (found["light"] < 0.1) == dark

    def test_a_page_that_is_too_wide_is_seen(self, page: str, tmp_path: Path) -> None:
        wide = page.replace("<main>", "<main><div style='width:3000px'>x</div>")
        assert self.measured(wide, tmp_path, "--window-size=390,844")["wide"] > 0
