from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import apps.dashboard as dashboard
from apps.views import case, reading
from apps.views.folders import find_analyses
from apps.views.links import plain
from boneage_xai.errors import ReportError
from boneage_xai.figures.attribution import shared_limit_months, smoothed_months
from boneage_xai.figures.overlay import analysis_limit_months, overlay_pixels
from boneage_xai.store import AnalysisFolder
from browsing import chromium, serving

SCRIPT = Path(dashboard.__file__)
STRANGE = "../../$\\frac$ [a](http://evil.example) *b*"


def _text(app: AppTest) -> str:
    parts = [*app.title, *app.header, *app.subheader, *app.markdown, *app.caption, *app.info]
    return "\n".join(str(part.value) for part in [*parts, *app.error, *app.warning])


def _asked(app: AppTest, name: str) -> str:
    value = app.query_params[name]
    # Versions of streamlit differ in whether a parameter is a list.
    return str(value[0] if isinstance(value, list) else value)


def _pictures(app: AppTest) -> list[str]:
    """Return the addresses of the images, which are named by their content."""
    # The element is called imgs up to streamlit 1.5x, image from then on.
    return [image.proto.imgs[0].url for image in [*app.get("imgs"), *app.get("image")]]


@pytest.mark.parametrize("page", list(dashboard.PAGES))
def test_every_page_opens(open_page: Any, analysis_folder: Path, page: str) -> None:
    app = open_page(analysis_folder, page=page)
    assert not app.exception
    assert not app.error
    assert "For research use only" in _text(app)
    assert app.header


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("page", list(dashboard.PAGES))
@pytest.mark.parametrize("has", ["evaluate", "attribute", "nothing"])
def test_every_page_opens_when_a_step_is_missing(
    open_page: Any, analysis_folder: Path, page: str, has: str
) -> None:
    if has != "evaluate":
        for name in ("metrics.json", "predictions.parquet", "history.csv"):
            (analysis_folder / name).unlink()
    if has != "attribute":
        shutil.rmtree(analysis_folder / "attributions.zarr")
        for name in ("attributions.parquet", "regions.parquet"):
            (analysis_folder / name).unlink()
    app = open_page(analysis_folder, page=page)
    assert not app.exception
    assert not app.error


def test_another_case_gives_another_picture_and_stays_in_the_address(
    open_page: Any, analysis_folder: Path
) -> None:
    app = open_page(analysis_folder, page="case", case="1000")
    assert "Case 1000" in _text(app)
    first = _pictures(app)
    assert len(first) == 5  # overlay, colour bar, radiograph, activations of two layers
    assert all(picture.endswith(".png") for picture in first)
    app.selectbox(key="choice-case").select("1001").run()
    assert not app.exception
    assert "Case 1001" in _text(app)
    second = _pictures(app)
    assert second[0] != first[0]
    assert second[1] == first[1]  # one colour scale for all cases
    assert all(now != before for now, before in zip(second[2:], first[2:], strict=True))
    assert _asked(app, "case") == "1001"
    # The same case again gives the same picture.
    app.selectbox(key="choice-case").select("1000").run()
    assert _pictures(app) == first


def test_opacity_and_method_change_the_picture(open_page: Any, analysis_folder: Path) -> None:
    app = open_page(analysis_folder, page="case", case="1000")
    shown = {_pictures(app)[0]}
    app.slider[0].set_value(0).run()
    shown.add(_pictures(app)[0])
    app.slider[0].set_value(90).run()
    app.selectbox(key="choice-method").select("gradient").run()
    shown.add(_pictures(app)[0])
    assert len(shown) == 3
    assert not app.exception
    assert "promises no completeness" in _text(app)


def test_regions_by_stage_sex_method_and_measure(open_page: Any, analysis_folder: Path) -> None:
    app = open_page(analysis_folder, page="regions")
    assert not app.exception
    assert app.header[0].value == "Regions by age and sex"
    first = _pictures(app)
    assert len(first) == 2  # hands by stage and sex, and one of them
    assert "nothing is concluded" in _text(app)
    assert "There is no control yet" in _text(app)
    assert set(app.dataframe[0].value["region"]) == {"carpals", "radius $x"}
    app.selectbox(key="choice-measure").select("share").run()
    second = _pictures(app)
    assert second[0] != first[0]
    assert second[1] != first[1]
    assert _asked(app, "measure") == "share"
    app.radio(key="choice-sex").set_value("F").run()
    third = _pictures(app)
    assert third[0] == second[0]
    assert third[1] != second[1]
    app.selectbox(key="choice-method").select("gradient").run()
    assert _pictures(app)[0] != third[0]
    assert not app.exception


def test_next_and_previous_walk_through_the_cases(open_page: Any, analysis_folder: Path) -> None:
    app = open_page(analysis_folder, page="case", case="1000")
    forward = next(button for button in app.button if "Next" in button.label)
    forward.click().run()
    assert _asked(app, "case") == "1001"
    back = next(button for button in app.button if "Previous" in button.label)
    back.click().run()
    assert _asked(app, "case") == "1000"


def test_a_long_list_shows_a_part_and_finds_the_rest(
    open_page: Any, analysis_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case, "_MOST_LISTED", 2)
    labels = reading.case_labels(AnalysisFolder.open(analysis_folder))
    ids = list(labels)
    app = open_page(analysis_folder, page="case", case=ids[5])

    def listed() -> list[str]:
        return list(app.selectbox(key="choice-case").options)

    def chosen() -> str:
        return str(app.selectbox(key="choice-case").value)

    assert chosen() == ids[5]
    assert listed() == [labels[one] for one in ids[4:]]
    # Walking does not stop where the list does.
    for place in (4, 3):
        app.button[0].click().run()
        assert chosen() == ids[place]
    assert listed() == [labels[one] for one in ids[2:4]]
    assert _asked(app, "case") == ids[3]
    # Looking for a case goes to the first found, and only those found are walked through.
    girls = [one for one in ids if "girl" in labels[one].casefold()]
    app.text_input(key="find-case").input("GIRL months").run()
    assert listed() == [labels[one] for one in girls[:2]]
    assert chosen() == (ids[3] if ids[3] in girls[:2] else girls[0])
    app.text_input(key="find-case").input(girls[1]).run()
    assert chosen() == girls[1]
    assert _asked(app, "case") == girls[1]
    app.text_input(key="find-case").input("no such case").run()
    assert "None found" in "".join(str(caption.value) for caption in app.caption)
    assert chosen() == girls[1]
    assert not app.exception


def test_page_choice_stays_in_the_address(open_page: Any, analysis_folder: Path) -> None:
    app = open_page(analysis_folder)
    app.radio(key="choice-page").set_value("cohort").run()
    assert not app.exception
    assert _asked(app, "page") == "cohort"
    assert app.header[0].value == "Who was analysed"


def test_address_changed_from_outside_is_followed(open_page: Any, analysis_folder: Path) -> None:
    app = open_page(analysis_folder, page="cohort")
    app.query_params["page"] = "case"
    app.query_params["case"] = "1002"
    app.run()
    assert "Case 1002" in _text(app)


def test_unknown_parameters_fall_back(open_page: Any, analysis_folder: Path) -> None:
    app = open_page(analysis_folder, page="nowhere", case="nobody", method="none")
    assert not app.exception
    app = open_page(analysis_folder, page="case", case="nobody", method="none")
    assert not app.exception
    assert app.selectbox(key="choice-method").value == "integrated_gradients"
    assert "method" not in app.query_params


def test_strange_case_ids_are_shown_as_text(open_page: Any, analysis_folder: Path) -> None:
    app = open_page(analysis_folder, page="case", case=STRANGE)
    assert not app.exception
    assert plain(STRANGE) in _text(app)
    assert "[a](http" not in _text(app)


def test_folder_of_several_lets_one_choose(
    open_page: Any, analysis_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(analysis_folder, tmp_path / "another")
    app = open_page(tmp_path, analysis="toy", page="training")
    assert not app.exception
    assert app.selectbox(key="choice-analysis").options == ["another", "toy"]
    assert str(tmp_path / "toy") in _text(app).replace("\\", "")


def test_without_a_folder_it_says_how_to_begin(
    open_page: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    app = open_page()
    assert not app.exception
    assert "boneage-xai demo" in _text(app)


def test_without_a_folder_the_demo_is_shown(
    open_page: Any, monkeypatch: pytest.MonkeyPatch, analysis_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(analysis_folder, tmp_path / "here" / "demo" / "analysis")
    monkeypatch.chdir(tmp_path / "here")
    app = open_page(page="training")
    assert not app.exception
    assert app.header[0].value == "Training"


def test_foreign_folder_is_refused_in_words(open_page: Any, tmp_path: Path) -> None:
    app = open_page(tmp_path)
    assert not app.exception
    assert len(app.error) == 1
    app = open_page(tmp_path / "absent")
    assert len(app.error) == 1


def test_find_analyses(analysis_folder: Path, tmp_path: Path) -> None:
    assert find_analyses(analysis_folder) == {"toy": analysis_folder}
    assert find_analyses(tmp_path) == {"toy": analysis_folder}
    with pytest.raises(ReportError, match="expected an analysis folder"):
        find_analyses(tmp_path / "toy" / "attributions.zarr")


def test_a_file_written_anew_is_read_anew(analysis_folder: Path) -> None:
    folder = AnalysisFolder.open(analysis_folder)
    frame = reading.predictions(folder)
    frame.head(5).to_parquet(analysis_folder / "predictions.parquet", index=False)
    os.utime(analysis_folder / "predictions.parquet", ns=(1, 1))
    assert len(reading.predictions(folder)) == 5 < len(frame)


def test_plain_leaves_no_markup() -> None:
    assert plain("[a](b) *c*\n# d") == r"\[a\]\(b\) \*c\* \# d"


def test_overlay_at_no_opacity_is_the_radiograph() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 6), dtype=np.uint8)
    map_months = rng.normal(size=(8, 6)).astype(np.float32)
    shown = overlay_pixels(image, map_months, 1.0, opacity=0.0, size_px=8)
    np.testing.assert_array_equal(shown, np.repeat(image[..., None], 3, axis=2))


def test_overlay_shows_the_sign() -> None:
    image = np.full((4, 4), 100, dtype=np.uint8)
    map_months = np.zeros((4, 4), dtype=np.float32)
    map_months[0, 0], map_months[3, 3] = 2.0, -2.0
    shown = overlay_pixels(image, map_months, 1.0, smoothing_px=0, size_px=4).astype(int)
    assert shown[0, 0, 0] > 200 > 100 > shown[0, 0, 2]  # orange: older
    assert shown[3, 3, 2] > 200 > 100 > shown[3, 3, 0]  # blue: younger
    np.testing.assert_array_equal(shown[1, 1], [100, 100, 100])


@pytest.mark.parametrize("size_px", [30, 96])
def test_an_overlay_of_another_size_keeps_places(size_px: int) -> None:
    image = np.zeros((48, 48), dtype=np.uint8)
    map_months = np.zeros((48, 48), dtype=np.float32)
    image[8:16, 30:42] = 200
    map_months[20:28, 4:10] = 2.0
    grey, orange = (
        overlay_pixels(image, one, 1.0, smoothing_px=0, opacity=opacity, size_px=size_px)
        for one, opacity in ((map_months, 0.0), (map_months, 0.9))
    )
    added = (orange.astype(float) - grey)[..., 0]
    places = np.indices((size_px, size_px)) + 0.5
    for weights, middle in ((grey[..., 0].astype(float), (12, 36)), (added, (24, 7))):
        found = (places * weights).sum((1, 2)) / weights.sum() * 48 / size_px
        np.testing.assert_allclose(found, middle, atol=0.1)


def test_overlay_refuses_shapes_that_differ() -> None:
    with pytest.raises(ReportError, match="one map for one image"):
        overlay_pixels(np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.float32), 1.0)


def test_scale_is_that_of_all_maps(analysis_folder: Path) -> None:
    maps = AnalysisFolder.open(analysis_folder).maps()
    assert maps is not None
    every = np.asarray(maps["integrated_gradients"][:])  # type: ignore[index]
    expected = shared_limit_months(smoothed_months(every))
    assert analysis_limit_months(maps, "integrated_gradients") == pytest.approx(expected)


@pytest.fixture
def served(analysis_folder: Path, tmp_path: Path) -> Iterator[str]:
    """Return the address of a dashboard on two analyses."""
    several = tmp_path / "several"
    for name in ("one", "other"):
        shutil.copytree(analysis_folder, several / name)
    with serving(several, tmp_path) as (address, _):
        yield address


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "profile") as opened:
        yield opened


def test_pages_in_a_real_browser(browser: Any, served: str, tmp_path: Path) -> None:
    wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait(browser, 240)

    def see(selector: str) -> Any:
        return wait.until(lambda b: b.find_elements("css selector", selector))

    for page, (needed, words) in {
        "performance": ("canvas, svg.marks", "Performance"),
        "case": ("[data-testid='stImage'] img", "Case"),
        "regions": ("[data-testid='stImage'] img", "Regions by age and sex"),
        "trust": ("canvas, svg.marks", "Can these maps be trusted?"),
        "stress": ("canvas, svg.marks", "Stress"),
        "compare": ("canvas, svg.marks", "Compare"),
        "cohort": ("canvas, svg.marks", "Who was analysed"),
        "training": ("canvas, svg.marks", "Training"),
    }.items():
        browser.get(f"{served}/?page={page}&case=1000")
        see(f"[data-testid='stVegaLiteChart'] {needed}" if "canvas" in needed else needed)
        wait.until(lambda b, w=words: w in b.find_element("css selector", "h2").text)
        assert not browser.find_elements("css selector", "[data-testid='stException']")
        assert "For research use only" in browser.find_element("css selector", "body").text
    # From a point of the scatter plot to its case, and back.
    browser.get(f"{served}/?page=performance")
    point = see("[data-testid='stVegaLiteChart'] path[aria-label*='case: 1001;']")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    mouse = pytest.importorskip("selenium.webdriver.common.action_chains").ActionChains(browser)
    mouse.move_to_element(point).click().perform()
    see("[class*='st-key-open-'] button")[0].click()
    wait.until(lambda b: b.find_element("css selector", "h2").text == "Case")
    assert browser.current_url.endswith("page=case&case=1001")
    browser.back()
    wait.until(lambda b: b.find_element("css selector", "h2").text == "Performance")
    browser.forward()
    wait.until(lambda b: b.find_element("css selector", "h2").text == "Case")
    wait.until(lambda b: "Case 1001" in b.find_element("css selector", "body").text)
    images = "return [...document.images].every(one => one.complete && one.naturalWidth > 0)"
    wait.until(lambda b: b.execute_script(images))
    image = tmp_path / "case.png"
    assert browser.save_screenshot(str(image))
    assert image.stat().st_size > 20_000
    errors = [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    # Pages were left before their images had come, which the server then no longer has.
    assert not [message for message in errors if "/media/" not in message]
