"""The pages on trust, stress, comparison, performance and training, as a user opens them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from analysis_fixture import MALICIOUS, STRANGE
from apps.views.cards import filled
from apps.views.links import plain
from apps.views.picked import ordered
from apps.views.trust import _control_sentence
from boneage_xai.files import read_json, write_json, write_table
from boneage_xai.store import CONTROL_FOLDER, AnalysisFolder

Open = Callable[..., AppTest]


def text(app: AppTest) -> str:
    parts = [*app.header, *app.subheader, *app.markdown, *app.caption, *app.info]
    return "\n".join(str(part.value) for part in [*parts, *app.error, *app.warning])


def commands(app: AppTest) -> list[str]:
    return [str(code.value) for code in app.code]


def asked(app: AppTest, name: str) -> str:
    value = app.query_params[name]
    return str(value[0] if isinstance(value, list) else value)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = read_json(folder / "analysis.json")
    change(content)
    write_json(folder / "analysis.json", content)


@pytest.fixture
def two(analysis_folder: Path, tmp_path: Path) -> Path:
    """Return a folder of two analyses of the same cases; ``better`` errs half as far."""
    several = tmp_path / "several"
    shutil.copytree(analysis_folder, several / "plain")
    other = Path(shutil.copytree(analysis_folder, several / "better"))
    change_manifest(other, lambda content: content["run"].update(model_id="ffffffffffff"))
    table = pd.read_parquet(other / "predictions.parquet")
    table["error_months"] /= 2
    table["predicted_months"] = table["reference_months"] + table["error_months"]
    write_table(other / "predictions.parquet", table)
    history = pd.read_csv(other / "history.csv")
    write_table(other / "history.csv", history.assign(val_mae_months=history["val_mae_months"] - 3))
    return several


def test_a_new_analysis_does_not_take_the_place_of_the_one_looked_at(
    open_page: Open, two: Path, analysis_folder: Path
) -> None:
    app = open_page(two, page="performance")
    assert asked(app, "analysis") == "better"
    shutil.copytree(analysis_folder, two / "a-new-one")
    app.run()
    assert not app.exception
    assert app.selectbox(key="choice-analysis").value == "better"


@pytest.mark.parametrize("page", ["compare", "training"])
def test_an_analysis_that_cannot_be_read_is_left_out(open_page: Open, two: Path, page: str) -> None:
    (two / "broken").mkdir()
    (two / "broken" / "analysis.json").write_text("{")
    app = open_page(two, page=page, analysis="plain")
    assert not app.exception
    assert not app.error
    assert app.get("vega_lite_chart") or app.get("arrow_vega_lite_chart")


def test_what_is_looked_at_again_is_kept_the_longest() -> None:
    def script() -> None:
        from apps.views import results

        for number in range(60):
            results.keep(f"upload-{number}", number)
            assert results.kept("upload-0") == 0
        assert results.kept("upload-1") is None

    assert not AppTest.from_function(script).run().exception


def add_control(folder: Path) -> None:
    """Put the same maps where those of random weights belong."""
    control = folder / CONTROL_FOLDER
    shutil.copytree(folder, control, ignore=shutil.ignore_patterns(CONTROL_FOLDER))
    model = read_json(folder / "analysis.json")["run"]["model_id"]

    def made_random(content: dict[str, Any]) -> None:
        content["run"]["random_weights"] = {"copy_of": model, "seed": 0}
        content["run"]["model_id"] = "eeeeeeeeeeee"

    change_manifest(control, made_random)


def test_trust_says_what_each_check_found(open_page: Open, analysis_folder: Path) -> None:
    app = open_page(analysis_folder, page="trust")
    assert not app.exception
    shown = text(app)
    assert "100% within tolerance" in shown.replace("\\", "")
    assert "promises no completeness" in shown
    assert "2 alarms raised" in shown or "1 alarm raised" in shown
    assert "Of the regions of bone, removing carpals matters most" in shown.replace("\\", "")
    assert "Nearest to the true effects of regions is integrated gradients" in shown
    assert len(commands(app)) == 1  # all but the control is there
    assert (
        "--random-weights --method integrated_gradients --method gradient" in commands(app)[0]
        or "--random-weights --method gradient --method integrated_gradients" in commands(app)[0]
    )
    assert commands(app)[0].endswith("--limit 6")
    assert f"{analysis_folder / CONTROL_FOLDER}" in commands(app)[0]


def test_a_control_with_the_same_maps_is_bad_news(open_page: Open, analysis_folder: Path) -> None:
    add_control(analysis_folder)
    app = open_page(analysis_folder, page="trust")
    assert not app.exception
    assert "#### hardly" in text(app)
    assert "they hardly depend on what was learnt" in text(app)
    assert not commands(app)
    app.selectbox(key="choice-control").select("1003").run()
    assert not app.exception
    assert "Case 1003" in text(app)
    assert asked(app, "control") == "1003"


def test_a_control_is_asked_for_from_the_same_baseline(
    open_page: Open, analysis_folder: Path
) -> None:
    change_manifest(
        analysis_folder,
        lambda content: content["steps"]["attribute"]["settings"].update(baseline="blurred"),
    )
    (command,) = commands(open_page(analysis_folder, page="trust"))
    assert command.endswith("--limit 6 --baseline blurred")


@pytest.mark.parametrize(
    ("correlations", "verdict"),
    [
        ([0.1, 0.2, 0.1, 0.2], "they depend on"),
        ([0.9, 0.8, 0.9, 0.8], "they hardly depend on"),
        ([0.0, 0.9, 0.1, 0.8], "is open"),
        ([0.1], "is open"),
    ],
)
def test_a_control_is_judged_by_its_interval(correlations: list[float], verdict: str) -> None:
    group = pd.DataFrame({"rank_correlation": correlations, "chance": 0.0})
    assert verdict in _control_sentence("gradient", group)


def test_a_control_of_another_network_is_not_used(open_page: Open, analysis_folder: Path) -> None:
    add_control(analysis_folder)
    change_manifest(
        analysis_folder / CONTROL_FOLDER,
        lambda content: content["run"]["random_weights"].update(copy_of="0"),
    )
    app = open_page(analysis_folder, page="trust")
    assert not app.exception
    assert "The control was not used" in text(app)


@pytest.mark.parametrize(
    ("page", "made_by"),
    [
        (
            "trust",
            {
                "attributions.parquet": "attribute runs/toy --data",
                "occlusion.parquet": "occlude runs/toy --data",
                "shortcuts.json": "shortcuts runs/toy --data",
                "scoreboard.parquet": "benchmark-methods runs/toy --data PHANTOMS",
                "interventions.parquet": "intervene runs/toy --data PHANTOMS",
            },
        ),
        (
            "stress",
            {
                "stress.parquet": "stress runs/toy --data",
                "sex_effect.parquet": "sex-effect runs/toy --data",
            },
        ),
    ],
)
def test_what_is_missing_names_its_command(
    open_page: Open, analysis_folder: Path, page: str, made_by: dict[str, str]
) -> None:
    for file in made_by:
        (analysis_folder / file).unlink()
    app = open_page(analysis_folder, page=page)
    assert not app.exception
    assert not app.error
    for command in made_by.values():
        assert any(f"boneage-xai {command}" in one for one in commands(app))


def test_commands_are_filled_in_and_quoted(analysis_folder: Path) -> None:
    folder = AnalysisFolder.open(analysis_folder)
    found = filled(folder, "boneage-xai attribute RUN --data SOURCE --out DIR/random-weights")
    assert found == (
        "boneage-xai attribute runs/toy --data 'some folder/phantoms' --out "
        f"{analysis_folder}/random-weights"
    )

    def elsewhere(content: dict[str, Any]) -> None:
        content["run"].update(card={"name": "x"}, path="my card.toml")
        content["data"].update(split="all", source=None)

    change_manifest(analysis_folder, elsewhere)
    found = filled(AnalysisFolder.open(analysis_folder), "boneage-xai stress RUN --data SOURCE")
    assert found == "boneage-xai stress --card 'my card.toml' --data SOURCE --split all"


def test_stress_by_family_transform_and_case(open_page: Open, analysis_folder: Path) -> None:
    app = open_page(analysis_folder, page="stress")
    assert not app.exception
    assert app.selectbox(key="choice-transform").value == "rotation_180"  # the worst first
    # Half turns move every case by 40 months.
    assert "+40.0" in text(app)
    assert "Predictions move by 40.0 months in the mean" in text(app).replace("\\", "")
    assert f"case {plain(MALICIOUS)}" in text(app)
    assert MALICIOUS not in text(app)
    app.selectbox(key="choice-family").select("contrast").run()
    assert not app.exception
    assert asked(app, "family") == "contrast"
    assert app.selectbox(key="choice-transform").options == ["contrast: 50%"]
    assert "Predictions move by 0.0 months" in text(app).replace("\\", "")
    app.selectbox(key="choice-measure").select("moved_over_12_months").run()
    assert not app.exception
    # The picked case leads to its page.
    app.selectbox(key="choice-picked").select("1001").run()
    next(one for one in app.button if one.label == "Look at this case").click().run()
    assert asked(app, "page") == "case"
    assert asked(app, "case") == "1001"


def test_stress_without_references_shows_movement(open_page: Open, analysis_folder: Path) -> None:
    file = analysis_folder / "stress.parquet"
    write_table(file, pd.read_parquet(file).assign(reference_months=np.nan))
    app = open_page(analysis_folder, page="stress", measure="mae_change_months")
    assert not app.exception
    assert app.selectbox(key="choice-measure").value == "mean_absolute_delta_months"
    assert "No case has a reference bone age" in text(app)


def test_compare_says_who_is_closer_and_leads_to_cases(open_page: Open, two: Path) -> None:
    app = open_page(two, page="compare", analysis="plain")
    assert not app.exception
    assert not app.error
    assert app.selectbox(key="choice-a").value == "plain"
    assert app.selectbox(key="choice-b").value == "better"
    assert "better is closer than plain" in text(app)
    assert "0 of 120" in text(app)  # A is closer in no case
    app.radio(key="choice-groups").set_value("both").run()
    assert not app.exception
    app.selectbox(key="choice-group").select_index(0).run()
    app.selectbox(key="choice-mapped").select("1002").run()
    assert not app.exception
    assert asked(app, "mapped") == "1002"
    assert "correlate at \\+1\\.00" in text(app)  # both hold the same maps
    # Exchanged, the other is A, and its cases are those that one is led to.
    app = open_page(two, page="compare", analysis="plain", a="better", b="plain")
    assert "better is closer than plain" in text(app)
    app.selectbox(key="choice-picked").select("1001").run()
    next(one for one in app.button if one.key == "open-compared-1001").click().run()
    assert app.selectbox(key="choice-analysis").value == "better"
    assert app.header[0].value == "Case"


def test_compare_of_three_shows_all(open_page: Open, two: Path) -> None:
    shutil.copytree(two / "plain", two / "third")
    app = open_page(two, page="compare", analysis="plain")
    assert not app.exception
    table = app.dataframe[0].value
    assert list(table["model"]) == ["plain", "better", "third"]
    assert table["mae_difference_months"].iloc[1] == pytest.approx(-table["mae_months"].iloc[1])
    assert table["mae_difference_months"].iloc[2] == 0


def test_compare_needs_a_second_analysis_of_the_same_data(
    open_page: Open, two: Path, analysis_folder: Path
) -> None:
    app = open_page(analysis_folder, page="compare")
    assert not app.exception
    assert "no second analysis" in text(app)
    change_manifest(two / "better", lambda content: content["data"].update(fingerprint="0"))
    app = open_page(two, page="compare")
    assert not app.exception
    assert "no second analysis" in text(app)


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("agreement", "Upper limit of agreement"),
        ("calibration", "Calibration"),
        ("groups", "By stage and other groups"),
        ("intervals", "Cases outside of their interval"),
        ("diagnosis", "standard deviations of skeletal age"),
    ],
)
def test_views_of_performance(
    open_page: Open, analysis_folder: Path, view: str, words: str
) -> None:
    app = open_page(analysis_folder, page="performance", view=view)
    assert not app.exception
    assert words in text(app)
    assert asked(app, "view") == view


def test_a_bin_leads_to_its_cases(open_page: Open, analysis_folder: Path) -> None:
    app = open_page(analysis_folder, page="performance", view="groups", group="F-96-132")
    assert not app.exception
    cases = app.dataframe[0].value
    assert set(cases["sex"]) == {"F"}
    assert cases["reference_months"].between(96, 132, inclusive="left").all()
    every = AnalysisFolder.open(analysis_folder).predictions()
    expected = every[(every["sex"] == "F") & every["reference_months"].between(96, 131.99)]
    assert set(cases["case_id"]) == set(expected["case_id"])
    assert cases["error_months"].abs().is_monotonic_decreasing
    assert app.selectbox(key="choice-picked").value == cases["case_id"].iloc[0]


def test_performance_without_intervals_or_later_metrics(
    open_page: Open, analysis_folder: Path
) -> None:
    (analysis_folder / "intervals.json").unlink()
    metrics = read_json(analysis_folder / "metrics.json")
    for name in ("calibration", "groups", "tests", "clinical"):
        del metrics[name]
    write_json(analysis_folder / "metrics.json", metrics)
    for view in ("calibration", "groups", "intervals", "diagnosis"):
        app = open_page(analysis_folder, page="performance", view=view)
        assert not app.exception
        assert not app.error


def test_diagnosis_table_where_ages_are_known(open_page: Open, analysis_folder: Path) -> None:
    metrics = read_json(analysis_folder / "metrics.json")
    unknown = {"value": 0.1, "low": 0.05, "high": 0.2}
    metrics["clinical"] |= {
        "basis": "chronological age",
        "classes": ["delayed", "normal", "advanced"],
        "confusion": [[3, 1, 0], [2, 100, 4], [0, 2, 8]],
        "class_changed": unknown,
        "missed_abnormal": unknown,
        "score_error_sd": {"mean": 0.1, "sd": 0.9},
    }
    write_json(analysis_folder / "metrics.json", metrics)
    app = open_page(analysis_folder, page="performance", view="diagnosis")
    assert not app.exception
    assert "predicted delayed" in app.dataframe[0].value.columns
    assert app.dataframe[0].value.to_numpy().sum() == 120


def test_training_lays_runs_over_each_other(open_page: Open, two: Path) -> None:
    app = open_page(two, page="training", analysis="plain", curve="train_mae_months")
    assert not app.exception
    runs = next(one.value for one in app.dataframe if "best_mae_months" in one.value)
    assert list(runs["analysis"]) == ["better", "plain"]
    assert list(runs["best_mae_months"]) == [9.0, 12.0]
    assert asked(app, "curve") == "train_mae_months"
    # Two analyses of one model are one run.
    change_manifest(two / "better", lambda content: content["run"].update(model_id="000000000003"))
    app = open_page(two, page="training", analysis="plain")
    assert not app.exception
    assert not any("best_mae_months" in one.value for one in app.dataframe)


def test_strange_case_ids_are_text_on_every_page(open_page: Open, analysis_folder: Path) -> None:
    add_control(analysis_folder)
    for page, strange in (("trust", STRANGE), ("stress", MALICIOUS)):
        app = open_page(analysis_folder, page=page, picked=strange, control=strange)
        assert not app.exception
        assert f"**Case {plain(strange)}**" in text(app)
        assert strange not in text(app)


def test_largest_magnitudes_come_first() -> None:
    table = pd.DataFrame({"case_id": ["a", "b", "c"], "error_months": [1.0, -9.0, 5.0]})
    assert list(ordered(table, "error_months")["case_id"]) == ["b", "c", "a"]
