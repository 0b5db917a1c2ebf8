from __future__ import annotations

import base64
import json
import shlex
import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis_fixture import MALICIOUS
from boneage_xai.errors import DataError, ReportError
from boneage_xai.files import read_json, write_json
from boneage_xai.store import AnalysisFolder
from report_page import Page, csv_of
from reports.commands import commands
from reports.report import write_report
from reports.sections import ADDED_BY, SECTIONS
from reports.summary import region_sentence
from reports.wording import counted


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
    scatter = csv_of(page, "agreement-1.csv")
    np.testing.assert_allclose(scatter["predicted_months"], predictions["predicted_months"])
    assert list(scatter["case_id"]) == list(predictions["case_id"])
    regions = csv_of(page, "regions-3.csv")
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
