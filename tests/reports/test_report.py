from __future__ import annotations

import base64
import io
import json
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from boneage_xai.analysis.evaluation import evaluate
from boneage_xai.attribution.interface import BaselineName
from boneage_xai.errors import DataError, ReportError
from boneage_xai.files import read_json, write_json, write_table
from boneage_xai.store import AnalysisFolder
from reports.commands import commands
from reports.report import write_report
from reports.sections import ADDED_BY, SECTIONS
from reports.summary import region_sentence
from reports.wording import baseline_sentences, baseline_words, counted, months

MALICIOUS = "<script>alert('x')</script>"


class Page(HTMLParser):
    """What a browser would make of a report, in lists."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.downloads: dict[str, str] = {}
        self.images: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.addresses += [found[key] for key in ("href", "src", "action") if key in found]
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "img":
            self.images.append(found["src"])
            assert found["alt"]
        if "download" in found:
            self.downloads[found["download"]] = found["href"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def report(analysis_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(analysis_template, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def _csv(page: Page, name: str) -> pd.DataFrame:
    content = page.downloads[name].partition("base64,")[2]
    return pd.read_csv(io.BytesIO(base64.b64decode(content)))


def test_report_has_every_section_in_order_and_says_what_it_is(page: Page) -> None:
    sections = [name for name in page.ids if name in SECTIONS]
    assert sections == list(SECTIONS)
    assert page.addresses[: len(SECTIONS)] == [f"#{name}" for name in SECTIONS]
    assert "for research use only" in page.text.lower()
    assert "Not in this report" not in page.text


def test_report_is_self_contained(page: Page) -> None:
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert len(page.images) >= 9
    for source in page.images:
        kind, _, content = source.removeprefix("data:").partition(";base64,")
        start = b"\x89PNG" if kind == "image/png" else b"<?xml"
        assert base64.b64decode(content).startswith(start)
    style = next(words for words in page.words if ":root" in words)
    assert "url(" not in style
    assert "@import" not in style


def test_names_from_data_are_shown_as_text(page: Page, report: Path) -> None:
    assert MALICIOUS in page.text
    assert MALICIOUS not in report.read_text(encoding="utf-8")
    assert "http://evil.example" in page.text


def test_csv_behind_a_figure_holds_the_data(page: Page, analysis_folder: Path) -> None:
    predictions = AnalysisFolder.open(analysis_folder).predictions()
    scatter = _csv(page, "agreement-1.csv")
    np.testing.assert_allclose(scatter["predicted_months"], predictions["predicted_months"])
    assert list(scatter["case_id"]) == list(predictions["case_id"])
    regions = _csv(page, "regions-3.csv")
    assert set(regions["region"]) == {"background", "carpals", "radius $x"}
    assert len(page.downloads) >= 10


@pytest.mark.usefixtures("unrendered")
def test_numbers_of_the_summary_are_those_of_the_metrics(page: Page, analysis_folder: Path) -> None:
    predictions = AnalysisFolder.open(analysis_folder).predictions()
    errors = predictions["predicted_months"] - predictions["reference_months"]
    assert f"{errors.abs().mean():.1f} months from the reference" in page.text
    assert f"{100 * (errors.abs() <= 12).mean():.0f}% within 12 months" in page.text
    before = page.text
    metrics = read_json(analysis_folder / "metrics.json")
    metrics["overall"]["mae_months"] = {"value": 77.7, "low": 70.0, "high": 80.0}
    write_json(analysis_folder / "metrics.json", metrics)
    after = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "77.7 months from the reference on average (95% interval 70.0 to 80.0" in after
    assert "not closer than the best baseline" in after
    assert "closer than every baseline on the same cases" in before
    metrics["overall"]["mae_months"] = {"value": 7.0, "low": 5.0, "high": 90.0}
    for paired in metrics["paired"].values():
        paired["mae_difference_months"]["high"] = 1.0
    write_json(analysis_folder / "metrics.json", metrics)
    unsure = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "closer than every baseline in these cases, but not surely so in others" in unsure


def test_regions_are_told_in_months_where_maps_add_up() -> None:
    rows = pd.DataFrame(
        {
            "case_id": ["1"] * 4,
            "method": "integrated_gradients",
            "region": ["PIP", "metacarpal_shafts", "marker", "background"],
            "signed_months": [5.0, -2.0, 1.0, 0.5],
            "absolute_months": [6.0, 2.0, 1.0, 1.0],
            "area_fraction": [0.1, 0.1, 0.1, 0.7],
        }
    )
    told = region_sentence(rows, signed=True)
    assert "PIP joints (60%, +5.0 months), metacarpal shafts (20%, −2.0 months); 20% of it" in told
    assert "outside of the hand, 10% on the marker. Months are means" in told
    assert "months" not in region_sentence(rows)


def test_counts_are_grammatical() -> None:
    assert counted(1, "case") == "1 case"
    assert counted(1600, "case") == "1,600 cases"


def test_same_folder_gives_the_same_bytes(
    report: Path, analysis_template: Path, tmp_path: Path
) -> None:
    settings = dict(mpl.rcParams)
    again = write_report(analysis_template, tmp_path / "again.html")
    assert again.read_bytes() == report.read_bytes()
    assert dict(mpl.rcParams) == settings
    assert not (analysis_template / "report.html").exists()


ATTRIBUTED = ("attributions.zarr", "attributions.parquet", "regions.parquet")
EVALUATED = ("metrics.json", "predictions.parquet", "history.csv")
SECTION_OF_FILE = {
    "interventions.parquet": "interventions",
    "scoreboard.parquet": "scoreboard",
    "occlusion.parquet": "occlusion",
    "stress.parquet": "stress",
    "sex_effect.parquet": "sex_effect",
    "shortcuts.json": "shortcuts",
    "failures.json": "failures",
    "intervals.json": "intervals",
    "history.csv": "training",
}


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("removed", "left_out"),
    [
        (ATTRIBUTED, {"attributions", "activations", "regions", "region-profile"}),
        (("regions.parquet",), {"regions", "region-profile"}),
        *(((name,), {section}) for name, section in SECTION_OF_FILE.items()),
        (EVALUATED, {"data", "performance", "agreement", "calibration", "subgroups", "groups",
                     "clinical", "intervals", "training", "region-profile"}),
        (tuple({*EVALUATED, *SECTION_OF_FILE, *ATTRIBUTED}), set(ADDED_BY)),
    ],
)  # fmt: skip
def test_sections_without_inputs_are_left_out_and_the_step_is_named(
    analysis_folder: Path, removed: tuple[str, ...], left_out: set[str]
) -> None:
    for name in removed:
        path = analysis_folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(write_report(analysis_folder).read_text(encoding="utf-8"))
    assert [name for name in SECTIONS if name not in page.ids] == [
        name for name in SECTIONS if name in left_out
    ]
    missing = page.text.partition("Not in this report")[2]
    for name in left_out:
        assert ADDED_BY[name][0] in missing
    assert f"--out {analysis_folder}" in missing


def test_every_section_that_can_be_missing_says_how_to_add_it() -> None:
    assert set(ADDED_BY) == set(SECTIONS) - {"summary", "provenance"}


@pytest.mark.parametrize("manifest", [None, {"format": "something else", "version": 1}])
def test_foreign_folder_is_refused_in_one_sentence(
    tmp_path: Path, manifest: dict[str, object] | None
) -> None:
    if manifest is not None:
        (tmp_path / "analysis.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ReportError, match="expected") as caught:
        write_report(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_damaged_analysis_leaves_the_earlier_report(analysis_folder: Path) -> None:
    (analysis_folder / "report.html").write_text("earlier", encoding="utf-8")
    (analysis_folder / "metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.json"):
        write_report(analysis_folder)
    assert (analysis_folder / "report.html").read_text(encoding="utf-8") == "earlier"


def test_a_folder_cannot_be_the_report(analysis_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="found a folder"):
        write_report(analysis_folder, tmp_path)


def test_commands_can_be_pasted_into_a_shell(analysis_folder: Path) -> None:
    made = commands(AnalysisFolder.open(analysis_folder))
    steps = ["evaluate", "attribute", "intervene", "benchmark_methods", "occlude", "sex_effect"]
    steps += ["stress", "shortcuts", "failures", "report"]
    assert sorted(made) == sorted(steps)
    words = shlex.split(made["occlude"])
    assert words[words.index("--regions") + 1] == "some maps"
    assert [words[i + 1] for i, word in enumerate(words) if word == "--fill"] == ["inpaint", "mean"]
    words = shlex.split(made["attribute"])
    assert words[:3] == ["boneage-xai", "attribute", "runs/toy"]
    assert words[words.index("--data") + 1] == "some folder/phantoms"
    assert words[words.index("--max-nodes") + 1] == "33"
    assert [words[i + 1] for i, word in enumerate(words) if word == "--method"] == [
        "integrated_gradients",
        "gradient",
    ]
    assert shlex.split(made["benchmark_methods"])[:3] == [
        "boneage-xai",
        "benchmark-methods",
        "runs/toy",
    ]
    words = shlex.split(made["intervene"])
    assert words[words.index("--delta-months") + 1] == "12"
    assert words[words.index("--limit") + 1] == "6"


def test_stress_test_is_told_with_what_hurts_and_what_does_not(page: Page) -> None:
    told = page.text.partition("Changes of appearance")[2]
    assert "6 radiographs were changed in 2 ways before preprocessing" in told
    assert "Families none of whose changes adds more" not in told
    assert "contrast" in told


def test_the_sex_is_told_beside_milestones(page: Page) -> None:
    told = page.text.partition("read twice, as a girl's and as a boy's")[2]
    assert "As a boy's the answer is +10.0 months on average" in told
    assert "With the other sex the mean absolute error changes by" in told


def test_calibration_clinical_groups_and_intervals_say_what_their_tables_hold(
    page: Page, analysis_template: Path
) -> None:
    folder = AnalysisFolder.open(analysis_template)
    metrics, intervals = folder.metrics(), folder.intervals()
    assert intervals is not None
    assert "Predictions keep to the middle age" in page.text
    assert "(proxy)" in page.text
    assert "whether a child is delayed or advanced cannot be said" in page.text
    share = metrics["clinical"]["significant_errors"]["value"]
    assert f"{100 * share:.1f}% of {metrics['clinical']['n']} predictions" in page.text
    assert (
        "calibrated on 60 of the cases, chosen at random, and checked on the other 60" in page.text
    )
    shares = _csv(page, "intervals-3.csv")
    assert shares["coverage"].iloc[0] == pytest.approx(intervals["overall"]["coverage"]["value"])
    checked = _csv(page, "intervals-2.csv")
    inside = checked["reference_months"].between(checked["low_months"], checked["high_months"])
    assert inside.mean() == pytest.approx(shares["coverage"].iloc[0])
    stages = _csv(page, "groups-2.csv")
    assert stages["n"].sum() == len(folder.predictions())
    curve = _csv(page, "calibration-2.csv")
    total = (curve["n"] * curve["reference_months"]).sum()
    assert total == pytest.approx(folder.predictions()["reference_months"].sum())


@pytest.mark.usefixtures("unrendered")
def test_diagnoses_are_told_where_chronological_ages_are_known(analysis_folder: Path) -> None:
    frame = AnalysisFolder.open(analysis_folder).predictions()
    # A column may have any name, and its values too.
    frame["chronological_age_months"] = frame["reference_months"].clip(10, 180)
    frame[MALICIOUS] = np.where(np.arange(len(frame)) < 60, MALICIOUS, "")
    metrics = evaluate(frame, {}, n_resamples=20, columns=[MALICIOUS])
    write_json(analysis_folder / "metrics.json", metrics)
    text = write_report(analysis_folder).read_text(encoding="utf-8")
    assert MALICIOUS not in text
    page = Page(text)
    assert "(proxy)" not in page.text
    assert "The prediction changes the class (delayed, normal, advanced) of" in page.text
    assert f"By {MALICIOUS}" in page.text
    assert "not given" in page.text


@pytest.mark.usefixtures("unrendered")
def test_a_correction_is_told_with_the_cases_it_was_fitted_on(analysis_folder: Path) -> None:
    manifest = read_json(analysis_folder / "analysis.json")
    line = {"intercept_months": -2.5, "slope": 1.05}
    manifest["steps"]["evaluate"]["corrected"] = {
        "against": "prediction", "per_sex": True, "n": 200, "girls": line, "boys": line,
        "n_fitted_on": 12,
    }  # fmt: skip
    manifest["steps"]["evaluate"]["by"] = ["the site"]
    write_json(analysis_folder / "analysis.json", manifest)
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "fitted on 200 validation cases, errors against the prediction" in text
    assert "girls: −2.5 months +1.050 × prediction" in text
    assert "12 of these cases are among the 120 analysed" in text
    made = commands(AnalysisFolder.open(analysis_folder))["evaluate"]
    assert "--by 'the site'" in made
    assert made.endswith("--corrected")


def test_scoreboard_says_which_methods_to_believe(page: Page) -> None:
    told = page.text.partition("How far the methods can be trusted")[2]
    assert "Nearest to the true effects of regions is integrated gradients" in told
    assert "correlation +0.70, 95% interval" in told
    assert "No agreement with the true effects could be shown for gradient." in told
    assert "forgets everything: gradient." in told
    assert "deep lift: expected a network without gates, found <b>one</b>." in told
    summary = _csv(page, "scoreboard-2.csv").set_index(["method", "score"])
    assert summary.loc[("gradient", "mass_accuracy"), "chance"] == 0.25
    assert len(_csv(page, "scoreboard-3.csv")) == 12


@pytest.mark.usefixtures("unrendered")
def test_occlusion_answers_first_and_judges_every_method(page: Page, analysis_folder: Path) -> None:
    told = page.text.partition("Does each region matter?")[2].partition("What each region")[2]
    # Means over the six cases: 9, 2, 40, 1.5 and 4 times 1.25.
    assert (
        "removing carpals matters most: without that region (inpainted) the prediction moves by "
        "11.2" in told
    )
    assert "then radius $x (2.5)" in told
    assert "not the patch alone: carpals, by +9.4 (95% interval" in told
    assert "Not shown to matter more than such a patch: radius $x." in told
    assert "The moved patch of radius $x lies mostly beside the hand" in told
    assert "without the whole hand it is 50.0" in told
    assert "unlike any that the network has learnt from" in told
    summary = _csv(page, "occlusion-4.csv").set_index(["fill", "region"])
    assert summary.loc[("mean", "carpals"), "delta_months"] == pytest.approx(-11.25)
    assert summary.loc[("mean", "radius $x"), "beyond_control_months"] == pytest.approx(-2.5)
    assert len(_csv(page, "occlusion-5.csv")) == 60
    # Without a second method's table of attributions there is nothing to judge.
    (analysis_folder / "regions.parquet").unlink()
    without = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "A method agrees if" in told
    assert "A method agrees if" not in without


def test_interventions_are_told_with_what_they_change(page: Page) -> None:
    text = page.text
    assert "12 months younger and older" in text
    assert "0 of 6" in text
    by_case = _csv(page, "interventions-3.csv")
    summary = _csv(page, "interventions-2.csv").set_index("region")
    means = by_case.groupby("region")["slope_months_per_month"].mean()
    for region, value in summary["slope_months_per_month"].items():
        assert value == pytest.approx(means[region])
        assert months(value, signed=True, digits=2) in text


@pytest.mark.usefixtures("unrendered")
def test_the_report_says_which_baseline_and_why_it_matters(analysis_folder: Path) -> None:
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "that for a black image (the baseline)" in text
    assert "a map can only show what differs between the two" in text
    assert "Telling the network the other sex" in text
    assert "summed over a map, an estimated" in text


@pytest.mark.parametrize("name", get_args(BaselineName))
def test_every_baseline_has_words(name: str) -> None:
    assert baseline_words(name) in baseline_sentences(name)
    assert baseline_words(name) != f"a {name} image" or name == "black"
    assert len(baseline_sentences(name)) > len(baseline_sentences("unheard-of"))


@pytest.mark.usefixtures("unrendered")
def test_cases_that_did_not_converge_are_counted(analysis_folder: Path) -> None:
    table = pd.read_parquet(analysis_folder / "attributions.parquet")
    ours = table["method"] == "integrated_gradients"
    table.loc[table.index[ours], "converged"] = [False] * 2 + [True] * (ours.sum() - 2)
    write_table(analysis_folder / "attributions.parquet", table)
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "In 2 of 6 cases the gap or the error of integration stayed larger than allowed" in text
    table.loc[table.index[ours], "converged"] = True
    write_table(analysis_folder / "attributions.parquet", table)
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "stayed larger than allowed" not in text


@pytest.mark.usefixtures("unrendered")
def test_folders_of_earlier_versions_are_reported(analysis_folder: Path) -> None:
    table = pd.read_parquet(analysis_folder / "attributions.parquet")
    added = ["nodes", "converged", "precision", "sex_effect_months"]
    write_table(analysis_folder / "attributions.parquet", table.drop(columns=added))
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "that for a black image (the baseline)" in text
    assert "Telling the network the other sex" not in text
