from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_xai.anatomy import REGION_LABELS
from boneage_xai.errors import DataError
from boneage_xai.regions.user_regions import (
    canonical_name,
    draw_regions,
    read_user_regions,
    region_names,
)

VOC = """<annotation><size><width>200</width><height>100</height></size>
<object><name>DIP 3</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>60</xmax><ymax>30</ymax>
</bndbox></object>
<object><name>Wrist</name><bndbox><xmin>100</xmin><ymin>50</ymin><xmax>200</xmax><ymax>100</ymax>
</bndbox></object></annotation>"""
LABELME = {
    "imageWidth": 200,
    "imageHeight": 100,
    "shapes": [
        {"label": "DIP 3", "shape_type": "rectangle", "points": [[60, 30], [20, 10]]},
        {"label": "wrist", "points": [[100, 50], [200, 50], [200, 100], [100, 100]]},
    ],
}
COCO = {
    "images": [{"id": 4, "file_name": "films/7.png", "width": 200, "height": 100}],
    "categories": [{"id": 1, "name": "dip3"}, {"id": 2, "name": "Carpals"}],
    "annotations": [
        {"image_id": 4, "category_id": 1, "bbox": [20, 10, 40, 20]},
        {
            "image_id": 4,
            "category_id": 2,
            "segmentation": [[100, 50, 200, 50, 200, 100, 100, 100]],
        },
    ],
}


def write(folder: Path, kind: str, content: object = None) -> None:
    file, default = {
        "voc": ("7.xml", VOC),
        "labelme": ("7.json", LABELME),
        "coco": ("boxes.json", COCO),
    }[kind]
    content = default if content is None else content
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / file).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("kind", ["voc", "labelme", "coco"])
def test_all_formats_say_the_same(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    found = read_user_regions(tmp_path, ["7", "8"])
    assert set(found) == {"7"}
    names = region_names(found)
    assert names == {value: name for name, value in REGION_LABELS.items()}
    # The radiograph at half the annotated size.
    boxes, labels = draw_regions(found["7"], (50, 100), names)
    assert [(b.region, b.finger, b.confidence) for b in boxes] == [
        ("DIP", 3, 1.0),
        ("wrist", None, 1.0),
    ]
    measured = [[b.x_px, b.y_px, b.width_px, b.height_px] for b in boxes]
    np.testing.assert_allclose(measured, [[20, 10, 20, 10], [75, 37.5, 50, 25]])
    assert labels.labels[10, 20] == REGION_LABELS["DIP"]
    assert labels.labels[40, 80] == REGION_LABELS["carpals"]
    assert labels.labels[2, 2] == labels.labels[45, 20] == 0
    expected = np.zeros((50, 100), dtype=np.uint8)
    expected[5:15, 10:30] = REGION_LABELS["DIP"]
    expected[25:50, 50:100] = REGION_LABELS["carpals"]
    np.testing.assert_array_equal(labels.labels, expected)


def test_a_shape_smaller_than_a_pixel_has_the_one_it_lies_in(tmp_path: Path) -> None:
    write(tmp_path, "voc", VOC.replace("<xmax>60", "<xmax>20.2").replace("<ymax>30", "<ymax>10.2"))
    found = read_user_regions(tmp_path, ["7"])
    _, labels = draw_regions(found["7"], (100, 200), region_names(found))
    assert np.argwhere(labels.labels == REGION_LABELS["DIP"]).tolist() == [[10, 20]]


def test_a_mask_wins_as_it_is_and_own_names_get_labels(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [2, 2]], dtype=np.uint8)
    Image.fromarray(mask).save(tmp_path / "7.png")
    (tmp_path / "labels.json").write_text('{"1": "radius", "2": "cast"}', encoding="utf-8")
    write(tmp_path, "coco", {**COCO, "images": [{**COCO["images"][0], "file_name": "8.png"}]})
    found = read_user_regions(tmp_path, ["7", "8"])
    names = region_names(found)
    assert names[len(REGION_LABELS)] == "cast"
    boxes, labels = draw_regions(found["7"], (2, 2), names)
    assert boxes == ()
    assert [[labels.names[v] for v in row] for row in labels.labels.tolist()] == [
        ["background", "radius"],
        ["cast", "cast"],
    ]
    with pytest.raises(DataError, match=r"7\.png: expected the radiograph's size \(3, 2\)"):
        draw_regions(found["7"], (3, 2), names)


def test_the_smaller_of_overlapping_shapes_lies_on_top(tmp_path: Path) -> None:
    content = VOC.replace("<xmin>100", "<xmin>0").replace("<ymin>50", "<ymin>0")
    write(tmp_path, "voc", content)
    found = read_user_regions(tmp_path, ["7"])
    _, labels = draw_regions(found["7"], (100, 200), region_names(found))
    assert labels.labels[20, 40] == REGION_LABELS["DIP"]
    assert labels.labels[90, 100] == REGION_LABELS["carpals"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DIP", ("DIP", None)),
        ("pip_2", ("PIP", 2)),
        ("MCP5", ("MCP", 5)),
        ("MCP6", ("MCP6", None)),
        ("Soft tissue", ("soft_tissue", None)),
        ("ULNA", ("ulna", None)),
        ("My Region", ("My Region", None)),
    ],
)
def test_names_of_the_anatomy_are_known(name: str, expected: tuple[str, int | None]) -> None:
    assert canonical_name(name) == expected


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("voc", "<annotation>", r"7\.xml: expected a Pascal VOC file"),
        ("voc", VOC.replace("<width>200</width>", ""), "no size/width"),
        ("voc", VOC.replace("<xmax>60", "<xmax>10"), r"a box from 20, 10 to 10, 30"),
        ("voc", VOC.replace("<xmax>60", "<xmax>260"), "found it beyond the edge"),
        ("voc", '<!DOCTYPE a [<!ENTITY b "c">]>' + VOC, "without a DOCTYPE"),
        ("labelme", {"shapes": []}, r"7\.json: expected a LabelMe file .* 'imageWidth'"),
        (
            "labelme",
            {**LABELME, "shapes": [{"label": "x", "shape_type": "circle", "points": [[1, 1]]}]},
            "a circle of 1 points",
        ),
        (
            "labelme",
            {**LABELME, "shapes": [{**LABELME["shapes"][1], "label": "Background"}]},
            "expected regions of the hand, found one called 'Background'",
        ),
        (
            "coco",
            {
                **COCO,
                "images": [*COCO["images"], {**COCO["images"][0], "id": 5, "file_name": "7.jpg"}],
            },
            r"expected one image for case 7, found 7\.jpg and films/7\.png",
        ),
        ("coco", {**COCO, "categories": []}, r"boxes\.json: expected a COCO file"),
        (
            "coco",
            {
                **COCO,
                "annotations": [{"image_id": 4, "category_id": 1, "segmentation": {"counts": "x"}}],
            },
            "a run-length mask",
        ),
    ],
)
def test_faulty_files_are_refused(tmp_path: Path, kind: str, content: object, message: str) -> None:
    write(tmp_path, kind, content)
    with pytest.raises(DataError, match=message):
        read_user_regions(tmp_path, ["7"])


def test_two_files_for_a_case_and_none_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none for any of 1 cases"):
        read_user_regions(tmp_path, ["7"])
    write(tmp_path, "voc")
    write(tmp_path, "coco")
    with pytest.raises(DataError, match="one file of regions for case 7"):
        read_user_regions(tmp_path, ["7"])
    with pytest.raises(DataError, match="expected a folder"):
        read_user_regions(tmp_path / "none", ["7"])
