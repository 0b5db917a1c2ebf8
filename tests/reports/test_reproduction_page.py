"""The page of a reproduction: numbers, states and verdicts, from a record made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boneage_xai.analysis.published import PUBLISHED
from reports.reproduction import reproduction_page
from reports.reproduction_cells import arm_rows, reasons, sex_verdict

# (study, what, with the sex, measured on, months, highest of several)
LITERATURE = {
    ("wouters", "vgg16", True, "test", 15.9, None),
    ("wouters", "vgg16", False, "test", 16.9, None),
    ("wouters", "resnet18", True, "test", 11.7, None),
    ("wouters", "resnet18", False, "test", 14.6, None),
    ("wouters", "vgg16", None, "validation", 10.6, None),
    ("wouters", "resnet18", None, "validation", 10.6, None),
    ("wouters", "mean of the data", None, "not stated", 33.7, None),
    ("kimmel", "inception_v3", True, "test", 7.279, None),
    ("kimmel", "resnet101", True, "test", 8.766, None),
    (None, "radiologists", None, "test", 6.0, None),
    (None, "top ten of the RSNA 2017 challenge", None, "test", 4.265, 4.907),
}


def estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def measured(value: float, n: int = 2320) -> dict[str, Any]:
    return {"n": n, "mae_months": estimate(value, value - 0.5, value + 0.5)}


def arm(name: str, network: str, **changes: Any) -> dict[str, Any]:
    study = name.split("-")[0]
    return {
        "name": name,
        "study": study if study in ("wouters", "kimmel") else None,
        "description": "what it is",
        "network": network,
        "with_sex": not name.endswith("-image-only"),
        "twin": name.removesuffix("-image-only"),
        "status": "complete",
        "reason": None,
        "epochs": 20,
        "epochs_planned": 20,
        "best_epoch": 11,
        "seconds_per_epoch": 12.34,
        "hours": 0.5,
        "devices": ["processor"],
        "departures": [],
        "measured": {"validation": measured(12.0)},
        **changes,
    }


NOTHING = {"epochs": 0, "best_epoch": None, "seconds_per_epoch": None, "hours": None} | {
    "measured": {},
    "devices": [],
}


@pytest.fixture
def record() -> dict[str, Any]:
    epochs = {"key": "training.epochs", "shipped": 200, "used": 2}
    return {
        "toolkit_version": "0.1.0",
        "command": "boneage-xai reproduce --data rsna --out out",
        "begun": "2026-01-01T00:00+00:00",
        "seed": 0,
        "versions": {"torch": "2.6"},
        "data": {"source": "rsna", "n": 11_600, "skipped_problem_rows": 3},
        "test": {"source": "two-hundred", "n": 200},
        "arms": [
            arm("wouters-vgg16", "vgg16", epochs=15),
            arm("wouters-vgg16-image-only", "vgg16", status="partial", epochs=3, best_epoch=2),
            arm("wouters-resnet18", "resnet18", status="not begun", **NOTHING),
            arm(
                "kimmel-resnet101",
                "resnet101",
                epochs=2,
                epochs_planned=2,
                best_epoch=1,
                departures=[epochs],
                measured={"validation": measured(9.0), "test": measured(8.0, 200)},
            ),
            arm(
                "kimmel-inception-v3",
                "inception_v3",
                status="not run",
                reason=f"weights are not at {Path.home()}/weights",
                **NOTHING,
            ),
        ],
        "baselines": {"validation": {"mean": measured(33.7)}},
        "sex": {
            "validation": [
                {
                    "twin": "wouters-vgg16",
                    "network": "vgg16",
                    "n": 2320,
                    "unfinished": True,
                    "with_sex_months": 12.0,
                    "image_only_months": 13.5,
                    "difference_months": estimate(-1.5, -1.9, -1.1),
                    "p_value": 0.00001,
                    "p_holm": 0.00001,
                }
            ],
            "test": [],
        },
        "figures": {
            "charts": {"curves": "learning-curves.png", "sex-validation": "sex-validation.png"},
            "arms": {"wouters-vgg16": {"examples": "a.png", "activations": "b.png"}},
        },
    }


def test_published_numbers_are_those_of_the_literature() -> None:
    found = [
        (p.study, p.what, p.with_sex, p.measured_on, p.mae_months, p.highest_mae_months)
        for p in PUBLISHED
    ]
    assert len(found) == len(LITERATURE)
    assert set(found) == LITERATURE


def test_numbers_stand_beside_those_of_the_same_kind_of_set(record: dict[str, Any]) -> None:
    lines = reproduction_page(record, images="figures", radiographs=False).splitlines()
    head = (
        "| arm | study: official test set (200) | study: its own validation cases | "
        "ours: validation cases | ours: test set two-hundred | training |"
    )
    at = lines.index(head)
    assert lines[at + 2 : at + 5] == [
        "| `wouters-vgg16`, with the sex | 15.9 | 10.6 \\* | 12.0 (11.5 to 12.5) | – | "
        "15 epochs of 20 (stopped early by the recipe), best 12 |",
        "| `wouters-vgg16`, image only | 16.9 | 10.6 \\* | 12.0 (11.5 to 12.5) | – | "
        "**after 3 of 20 epochs**, best 3 |",
        "| `wouters-resnet18`, with the sex | 11.7 | 10.6 \\* | – | – | **not begun** |",
    ]
    assert (
        "| `kimmel-resnet101`, with the sex | 8.766 | 9.0 (8.5 to 9.5) | 8.0 (7.5 to 8.5) | "
        "2 epochs, best 2 |"
    ) in lines
    assert "| Radiologists | 6.0 | official test set (200) | – | – |" in lines
    assert "| Mean of the data (Wouters) | 33.7 | not stated | – | – |" in lines
    assert "| Mean age of the training cases | – | – | 33.7 (33.2 to 34.2) | – |" in lines
    assert "Of 5 arms: 2 complete; 1 partly trained; 1 not begun; 1 not run." in lines
    assert "kimmel-inception-v3, not run: weights are not at ~/weights." in lines
    assert "| `training.epochs` | `200` | `2` | `kimmel-resnet101` |" in lines
    assert (
        "| `wouters-vgg16` | 12.00 | 13.50 | −1.50 (−1.90 to −1.10) | < 0.001 | < 0.001 | "
        "helps (unfinished arms) |"
    ) in lines


def test_a_footnote_stands_where_something_refers_to_it(record: dict[str, Any]) -> None:
    footnote = "\\* Given once for each network"
    assert footnote in reproduction_page(record, images="figures", radiographs=False)
    others = [{**one, "network": "squeezenet1_1"} for one in record["arms"]]
    changed = {**record, "arms": others}
    assert footnote not in reproduction_page(changed, images="figures", radiographs=False)


def test_a_short_training_is_not_taken_for_a_whole_one(record: dict[str, Any]) -> None:
    said = "Fewer epochs or smaller inputs than in their recipe: 1 of 5 arms."
    assert said in reproduction_page(record, images="figures", radiographs=False)
    record["arms"][3]["departures"] = []
    record["arms"][0]["diverged"] = True
    page = reproduction_page(record, images="figures", radiographs=False)
    assert "Fewer epochs" not in page
    assert "15 epochs of 20 (**diverged**), best 12" in page


def test_the_same_rows_are_printed(record: dict[str, Any]) -> None:
    columns, rows = arm_rows(record)
    assert len(columns) == len(rows[0])
    assert rows[1] == [
        "wouters-vgg16",
        "no",
        "16.9",
        "12.0 (11.5 to 12.5)",
        "–",
        "after 3 of 20 epochs, best 3",
    ]
    assert reasons(record["arms"]) == ["kimmel-inception-v3, not run: weights are not at ~/weights"]


def test_only_the_private_page_shows_radiographs(record: dict[str, Any]) -> None:
    record["arms"][0]["activations"] = {
        "n": 16,
        "layers": [
            {"layer": "backbone.a", "size_px": 8, "rank_correlation": estimate(0.5, 0.4, 0.6)}
        ],
    }
    private = reproduction_page(record, images="x", radiographs=True)
    public = reproduction_page(record, images="x", radiographs=False)
    assert "](x/a.png)" in private
    assert "](x/b.png)" in private
    assert "a.png" not in public
    assert "b.png" not in public
    assert "| `wouters-vgg16` | `a` | 8 × 8 | +0.50 (+0.40 to +0.60) |" in public


def test_an_arm_without_activation_maps_says_why(record: dict[str, Any]) -> None:
    layer = {"layer": "backbone.a", "size_px": 8, "rank_correlation": estimate(0.5, 0.4, 0.6)}
    none = {"n": 0, "layers": [], "reason": f"no layers in {Path.home()}/run"}
    record["arms"][0]["activations"] = {"n": 16, "layers": [layer]}
    record["arms"][3]["activations"] = none
    page = reproduction_page(record, images="x", radiographs=True)
    assert "| `wouters-vgg16` | `a` | 8 × 8 |" in page
    assert "No maps of `kimmel-resnet101`: no layers in ~/run." in page.splitlines()
    assert "over 16 validation cases" in page
    record["arms"][0]["activations"] = none
    page = reproduction_page(record, images="x", radiographs=True)
    assert page.count("No maps of") == 2
    assert "correlation with random weights" not in page


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (-2.0, -0.1, 0.01, "helps"),
        (0.1, 2.0, 0.01, "harms"),
        (-2.0, 0.1, 0.01, "no difference shown"),
        (-2.0, -0.1, 0.06, "no difference shown"),
        (None, None, None, "no difference shown"),
    ],
)
def test_interval_and_test_must_agree(
    low: float | None, high: float | None, p: float | None, verdict: str
) -> None:
    value = 0.0 if low is None or high is None else (low + high) / 2
    difference = {"value": value, "low": low, "high": high}
    pair = {"difference_months": difference, "p_holm": p, "unfinished": False}
    assert sex_verdict(pair) == verdict


def test_libraries_are_those_of_the_machines_that_trained(record: dict[str, Any]) -> None:
    page = reproduction_page(record, images="x", radiographs=False)
    assert "| Libraries | torch 2.6 |" in page
    record["arms"][0]["versions"] = record["arms"][1]["versions"] = {"torch": "2.7"}
    record["arms"][3]["versions"] = {"torch": "2.8"}
    page = reproduction_page(record, images="x", radiographs=False)
    assert "torch 2.6" not in page
    assert page.count("| Libraries | torch 2.7 |") == page.count("| Libraries | torch 2.8 |") == 1
