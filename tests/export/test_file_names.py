"""File names from anything that may be a case id."""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from boneage_xai.export.file_names import safe_file_names


@given(st.lists(st.text(min_size=0, max_size=200), unique=True, max_size=12))
@example(["../../etc/passwd", "<script>alert(1)</script>", "a", "A", "..", "", "con", "CON.dcm"])
@example(["x" * 300, "x" * 299, "-rf", ".hidden", "a\0b", "a\nb", "ä", "\ud800", "C:\\x", "1377."])
def test_every_name_is_one_plain_name_of_its_own(ids: list[str]) -> None:
    names = safe_file_names(ids)
    assert list(names) == ids
    for name in names.values():
        assert name.isascii()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
        assert Path(name).name == name
        assert name[0] not in ".-"
        assert 1 <= len(name) <= 80
        assert name.casefold().split(".")[0] not in {"con", "prn", "aux", "nul", "com1", "lpt9"}
    assert len({name.casefold() for name in names.values()}) == len(ids)


def test_ordinary_ids_stay_as_they_are_and_others_depend_on_nothing_else() -> None:
    assert safe_file_names(["1377", "0001", "a-b_c.d"]) == {
        "1377": "1377",
        "0001": "0001",
        "a-b_c.d": "a-b_c.d",
    }
    alone = safe_file_names(["../x"])["../x"]
    assert safe_file_names(["1", "../x", "y"])["../x"] == alone
    assert alone.startswith("x_")


@given(st.lists(st.sampled_from(["a", "A", "a_x", "a_y_x", "index", "A_Y"]), unique=True))
@example(["hand", "hand_input_x", "export"])
def test_names_with_endings_are_distinct_too(ids: list[str]) -> None:
    endings, reserved = ["x", "y_x", "gradient", "input_x_gradient"], ["index", "export"]
    names = safe_file_names(ids, endings, reserved)
    made = list(names.values())
    made += [f"{name}_{ending}" for name in names.values() for ending in endings]
    assert len({name.casefold() for name in [*made, *reserved]}) == len(made) + len(reserved)
    assert safe_file_names(["hand", "foot"], endings, reserved) == {"hand": "hand", "foot": "foot"}
