"""The study's report in a browser: it stands alone, it fits, and every word is in its drawing.

With FEDGTV_SCREENSHOTS=FOLDER it leaves a picture of it there, as `make screenshots` does.
"""

import numpy as np
import pytest

from evaluation.aggregate_report import aggregate
from evaluation.benchmarks.simulated_reports import SITES, simulate_study
from evaluation.report_rendering import render_html
from tests.clinical_ui.browser import open_window

pytestmark = pytest.mark.journey
WIDE, NARROW = 1240, 900

WORDS_OUTSIDE = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
    const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
    return [...svg.querySelectorAll('text')].filter(text => {
        const box = text.getBBox();
        return text.textContent && (box.x < -1 || box.y < -1
            || box.x + box.width > width + 1 || box.y + box.height > height + 1);
    }).map(text => svg.closest('figure').id + ': ' + text.textContent);
})"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Write the report of two rounds of five hospitals, one of them missing from the second."""
    generator = np.random.default_rng(6)
    reports = [
        hospital.report()
        for number in (1, 2)
        for hospital in simulate_study(generator, round_number=number)
        if (hospital.name, number) != ("east", 2)
    ]
    study = aggregate(reports, expected_sites=SITES)
    file = tmp_path_factory.mktemp("report") / "study.html"
    file.write_text(render_html(study, title="Simulated", generated_at="2031-05-06"), "utf-8")
    return file


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_report_fits_and_every_word_is_inside_its_drawing(report, tmp_path, width):
    with open_window(report.as_uri(), tmp_path / "reader", (width, 1270)) as window:
        page = window.page
        page.goto(report.as_uri())
        assert page.evaluate(WORDS_OUTSIDE) == []
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("svg").count() == 2 * 8 + 2  # two rounds, budget and learning
        page.get_by_text("Not every hospital gives it").first.wait_for()
        if width == WIDE:
            page.add_style_tag(content="html { scroll-behavior: auto; }")
            page.locator("#p0-groups").evaluate("heading => heading.scrollIntoView()")
            window.screenshot("report")
        assert window.hosts <= {"page"}  # it asks nobody for anything
