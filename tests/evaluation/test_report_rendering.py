import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from evaluation.aggregate_report import StudyReport, aggregate
from evaluation.benchmarks.simulated_reports import simulate_study
from evaluation.report_csv import render_csv
from evaluation.report_rendering import render_html, render_json
from tests.evaluation.report_builders import report

WHEN = "2026-11-23T10:00:00Z"
VOID = {"meta", "br", "col", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page and keeps what the tests ask about; refuses crossed tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.words, self.rows = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if self.open and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def study():
    return aggregate(
        [
            report(
                "north",
                direct=[0.5, 0.0, 0.7, 0.6],
                adapted=[0.7, 0.75, 0.8, 0.65],
                target_trained=[0.8, 0.8, 0.9, 0.7],
                degrees=[2.0, 3.0, 7.0, 8.0],
            ),
            report("south", adapted=[0.9, 0.8], simulated=False),
            report("tiny", adapted=[0.4321], minimum_group_size=5, simulated=False),
        ]
    )


@pytest.fixture(scope="module")
def html(study):
    return render_html(study, title="GTVp <adaptation>", generated_at=WHEN)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_stands_alone(html, page):
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"} == set()
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'\s<>)]+", html)) <= namespaces
    assert "@import" not in html
    local = [value for _, a in page.tags for name, value in a.items() if "href" in name]
    assert local
    assert all(value.startswith("#") for value in local)


def test_every_id_is_unique_and_every_reference_finds_one(html, page):
    assert len(page.ids) == len(set(page.ids))
    references = re.findall(r'href="#([^"]+)"', html) + re.findall(r"url\(#([^)]+)\)", html)
    assert set(references) <= set(page.ids)


def test_the_same_report_gives_the_same_bytes_in_another_process(study, html, tmp_path):
    source = tmp_path / "study.json"
    source.write_text(render_json(study))
    code = (
        "import sys, pathlib\n"
        "from evaluation.aggregate_report import StudyReport\n"
        "from evaluation.report_rendering import render_html\n"
        "study = StudyReport.model_validate_json(pathlib.Path(sys.argv[1]).read_text())\n"
        f"page = render_html(study, title='GTVp <adaptation>', generated_at='{WHEN}')\n"
        "sys.stdout.buffer.write(page.encode())\n"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, source], capture_output=True, check=True
    ).stdout
    assert again.decode() == html


def test_what_a_reader_must_be_told_is_there(study, page):
    for words in (
        "Research use only, not a medical device",
        WHEN,
        study.packages[0].package_id,
        "model version v1",
        "seed 7",
        "240 of 1200 training slices (20.0 %)",
        "95th percentiles",
        "Dice, Jaccard and NSD are 0 and every distance is undefined",
        "is not given (suppressed)",
    ):
        assert words in page.text


def test_simulated_people_are_named_and_real_ones_are_not_accused(page):
    assert "The annotations of north were drawn by a simulated annotator." in page.text
    assert "The reviews at north were made by a simulated reviewer" in page.text
    real = aggregate([report("south", adapted=[0.9, 0.8], degrees=[1, 2], simulated=False)])
    text = render_html(real, title="t", generated_at=WHEN)
    assert "SIMULATED" not in text


def test_titles_are_escaped(html):
    assert "GTVp &lt;adaptation&gt;" in html
    assert "<adaptation>" not in html


def test_figures_of_the_table_are_those_of_the_report(page):
    direct = next(row for row in page.rows if row[0] == "Direct use" and row[1] == "4")
    assert direct[2] == "1"  # the missed tumour
    assert direct[3] == "45.0 ± 31.1"  # 0.5, 0, 0.7, 0.6, in percent
    assert direct[7] == "1"  # ... which has no distance
    assert direct[8] == "1.25 ± 0.00"  # ASD from the prediction to the reference, of the others
    assert any(row[0] == "north" and "75 %" not in row[-1] and "%" in row[-1] for row in page.rows)


def test_what_the_patients_were_measured_against_stands_beside_the_figures():
    def text(*reports):
        return Page(render_html(aggregate(reports), title="t", generated_at=WHEN)).text

    warning = "it favours “Adapted” over the other models"
    known = report("north", direct=[0.6, 0.7, 0.7], adapted=[0.8, 0.9, 0.9])
    honest = text(known, report("empty"))
    assert "north measured against: reference contour 3 patients, reviewed contour 0" in honest
    assert warning not in honest

    edited = report("south", direct=[0.6, 0.7, 0.7], adapted=[0.8, 0.9, 0.9], against_reviewed=True)
    both = text(known, edited)
    assert "south measured against: reference contour 0 patients, reviewed contour 3" in both
    assert warning in both

    for unsaid, words in (
        (known.model_copy(update={"yardstick": None}), "not stated"),
        (report("tiny", adapted=[0.8]), "reference or reviewed contours (numbers suppressed)"),
        (report("two", adapted=[0.8] * 2), "reference or reviewed contours (numbers suppressed)"),
    ):
        assert f"measured against: {words}" in text(unsaid)
        assert warning in text(unsaid)


def test_a_suppressed_value_is_nowhere(study, html, page):
    assert "suppressed" in page.text
    for text in (html, render_csv(study), render_json(study)):
        assert "43.2" not in text
        assert "0.4321" not in text


def test_tables_name_their_rows_and_columns(page):
    headers = [a for tag, a in page.tags if tag == "th"]
    assert all("scope" in a for a in headers)
    tables = [tag for tag, _ in page.tags if tag == "table"]
    assert len(tables) == len([tag for tag, _ in page.tags if tag == "caption"]) > 4
    drawings = [a for tag, a in page.tags if tag == "svg"]
    assert len(drawings) == len([tag for tag, _ in page.tags if tag == "figcaption"]) > 4
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)


@pytest.mark.parametrize(
    "reports",
    [
        [report("only")],
        [report("tiny", direct=[0.4], adapted=[0.5], target_trained=[0.6], minimum_group_size=9)],
        [report("all-missed", direct=[0.0, 0.0], adapted=[0.0, 0.0])],
        [report("perfect", direct=[1.0, 1.0], adapted=[1.0, 1.0], degrees=[0.0, 0.0])],
        [
            report("worse", direct=[0.8, 0.8], adapted=[0.1, 0.1], target_trained=[0.9, 0.9]),
            report("worse", adapted=[0.1, 0.2], package_id="ef" * 32, model_version="v2"),
        ],
    ],
    ids=["no-patients", "all-suppressed", "all-missed", "perfect", "harmful-and-two-packages"],
)
def test_thin_and_extreme_reports_render(reports):
    study = aggregate(reports)
    page = Page(render_html(study, title="t", generated_at=WHEN))
    assert len(page.ids) == len(set(page.ids))
    drawings = [a["viewbox"].split() for tag, a in page.tags if tag == "svg"]
    assert all(float(side) > 0 for box in drawings for side in box[2:])
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(page.ids)
    assert not {"nan", "inf", "none", "-inf"} & set(page.text.lower().split())


def test_csv_reads_back(study):
    rows = list(csv.DictReader(io.StringIO(render_csv(study), newline="")))
    assert [row["site"] for row in rows] == ["north", "south", "tiny", "all sites"]
    assert float(rows[0]["direct_dsc_mean"]) == 0.45
    assert rows[2]["adapted_dsc_mean"] == ""


def test_csv_holds_the_quartiles_that_the_page_shows():
    (hospital,) = simulate_study(np.random.default_rng(1), sites={"north": 60})
    made = aggregate([hospital.report()])
    north, together = csv.DictReader(io.StringIO(render_csv(made), newline=""))
    (site,) = made.packages[0].sites
    for arm in site.report.arms:
        for statistic in ("q1", "median", "q3"):
            told = getattr(arm.dsc, statistic)
            assert told is not None
            assert float(north[f"{arm.arm}_dsc_{statistic}"]) == told
    dice = made.packages[0].pooled[0].dsc
    assert dice.close_median is not None
    estimates = [str(quantile.estimate) for quantile in dice.quantiles]
    assert [together[f"direct_dsc_{s}"] for s in ("q1", "median", "q3")] == estimates


def test_a_hospital_that_never_reported_is_counted_and_has_a_line():
    made = aggregate([report("north", adapted=[0.8, 0.9])], expected_sites=["north", "south"])
    page = Page(render_html(made, title="t", generated_at=WHEN))
    assert "2 patients, 1 of 2 sites" in page.text
    place = page.rows.index(["south"])
    assert page.rows[place + 1] == ["no report on this package has arrived"]


def test_where_nobody_reviewed_or_no_rater_drew_twice_the_page_says_so():
    known = report("north", adapted=[0.8, 0.9])
    bare = Page(render_html(aggregate([known]), title="t", generated_at=WHEN))
    assert "No hospital reports a review by oncologists." in bare.text
    assert "No hospital reports the agreement of raters." in bare.text
    reviewed = report("south", adapted=[0.8, 0.9], degrees=[1.0, 2.0])
    page = Page(render_html(aggregate([known, reviewed]), title="t", generated_at=WHEN))
    assert "Without a review: north." in page.text
    assert "No hospital reports a review" not in page.text


def test_the_yardstick_warning_names_its_hospitals_and_those_that_are_in_no_figure():
    edited = report("south", adapted=[0.8, 0.9], against_reviewed=True)
    tiny = report("tiny", adapted=[0.8])
    made = aggregate([report("north", adapted=[0.8, 0.9]), edited, tiny])
    page = Page(render_html(made, title="t", generated_at=WHEN))
    assert "south, tiny (in no figure): not every patient there was measured" in page.text


def test_a_text_that_a_spreadsheet_would_run_is_defused():
    made = aggregate([report("north", adapted=[0.8, 0.9], code_version="+1+1")])
    rows = list(csv.DictReader(io.StringIO(render_csv(made), newline="")))
    assert rows[0]["code_version"] == "'+1+1"


def test_json_is_canonical_and_reads_back(study):
    text = render_json(study)
    assert StudyReport.model_validate_json(text) == study
    assert text == json.dumps(
        json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )


def test_a_coordinator_can_report_without_what_reads_images():
    code = (
        "import sys\n"
        "import evaluation.report_rendering\n"
        "heavy = {'torch', 'monai', 'pydicom', 'SimpleITK', 'matplotlib', 'streamlit'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
