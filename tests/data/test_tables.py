"""Every label table of the field, read from bytes as they lie on disk."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage_xai.data.tables import (
    LabelTable,
    normalise_header,
    read_label_table,
    strip_image_suffix,
)
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Sex

GIRL_BOY_180_12 = [("1377", Sex.FEMALE, 180.0), ("1378", Sex.MALE, 12.0)]


def write(folder: Path, content: bytes | str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def facts(table: LabelTable) -> list[tuple[str, Sex, float | None]]:
    return [(row.case_id, row.sex, row.bone_age_months) for row in table.rows]


def kinds(table: LabelTable) -> list[str]:
    return [problem.kind for problem in table.problems]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"id,boneage,male\n1377,180,False\n1378,12,True\n", id="kaggle training"),
        pytest.param(
            b"Image ID,male,Bone Age (months)\n1377,FALSE,180\n1378,TRUE,12\n",
            id="rsna validation",
        ),
        pytest.param(b"id,male,boneage\r\n1377,0,180\r\n1378,1,12\r\n", id="copy, male first"),
        pytest.param(b"ID,male,BoneAge\n1377,false,180\n1378,true,12", id="copy, BoneAge"),
        pytest.param(
            b",id,boneage,male\n0,1377,180,False\n1,1378,12,True\n", id="unnamed index column"
        ),
        pytest.param(b"id,boneage,male\n1377.png,180,False\n1378.PNG,12,True\n", id="with .png"),
        pytest.param(
            b"id , boneage, male\n 1377 ,180 , False\n1378, 12,True  \n", id="space-padded"
        ),
        pytest.param(
            b"\xef\xbb\xbfCase ID,Sex,Ground truth bone age (months)\r1377,F,180.00\r1378,M,12.0\r",
            id="test ground truth: BOM and CR",
        ),
        pytest.param(
            b"image_ID,dir,patient_ID,sex,bone_age\n"
            b"1377.png,rsna,77,F,180.0\n1378.png,rsna,78,M,12.0\n",
            id="deeplasia",
        ),
        pytest.param(b"id\tboneage\tmale\n1377\t180\tFalse\n1378\t12\tTrue\n", id="tabs"),
        pytest.param(b"id;boneage;sex\n1377;180;Female\n1378;12;male\n", id="semicolons"),
        pytest.param(
            "id,boneage,male\r\n1377,180,False\r\n1378,12,True\r\n".encode("utf-16"), id="utf-16"
        ),
        pytest.param(
            b'"id","bone_age (months)","male"\n"1377","180","False"\n"1378","12","True"\n',
            id="quoted",
        ),
        pytest.param(
            b'"id" , "boneage","male" \n"1377" ,"180", "False"\n 1378,"12" ,True\n',
            id="quoted and padded",
        ),
        pytest.param(b"\n\nid,boneage,male\n\n1377,180,False\n,,\n1378,12,True\n", id="blank rows"),
    ],
)
def test_reads_table_of_the_field(tmp_path: Path, content: bytes) -> None:
    table = read_label_table(write(tmp_path, content))
    assert facts(table) == GIRL_BOY_180_12
    assert table.problems == ()


def test_kaggle_test_table_has_no_ages(tmp_path: Path) -> None:
    table = read_label_table(write(tmp_path, "Case ID,Sex\n4360,M\n4460,F\n"))
    assert facts(table) == [("4360", Sex.MALE, None), ("4460", Sex.FEMALE, None)]
    assert table.problems == ()
    assert table.columns == {"id": "Case ID", "sex": "Sex"}


def test_deeplasia_rows_name_their_folder(tmp_path: Path) -> None:
    content = "image_ID,dir,patient_ID,sex,bone_age\n07.png,a/b,77,F,18.5\n8.png,,1,M,2\n"
    table = read_label_table(write(tmp_path, content))
    assert [row.image for row in table.rows] == ["a/b/07.png", "8.png"]
    assert table.rows[0].case_id == "07"
    assert table.rows[0].bone_age_months == 18.5


def test_generic_columns(tmp_path: Path) -> None:
    content = "Pseudonym;Gender at birth;BA;CA;File;id\na01;f;100;101.5;x\\y.dcm;9\n"
    columns = {
        "id": "Pseudonym",
        "sex": "Gender at birth",
        "age": "BA",
        "chronological_age": "CA",
        "image": "file",
    }
    (row,) = read_label_table(write(tmp_path, content), columns).rows
    assert (row.case_id, row.sex, row.bone_age_months) == ("a01", Sex.FEMALE, 100.0)
    assert row.chronological_age_months == 101.5
    assert row.image == "x/y.dcm"


def test_named_sex_column_wins_over_known_male_column(tmp_path: Path) -> None:
    path = write(tmp_path, "id,male,s\n1,True,F\n")
    assert read_label_table(path, {"sex": "s"}).rows[0].sex is Sex.FEMALE


def test_male_role_reads_true_and_false(tmp_path: Path) -> None:
    path = write(tmp_path, "id,boy\n1,True\n2,0\n")
    table = read_label_table(path, {"male": "boy"})
    assert [row.sex for row in table.rows] == [Sex.MALE, Sex.FEMALE]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"weight": "kg"}, ConfigError, "weight.*no such role.*chronological_age"),
        ({"sex": "a", "male": "b"}, ConfigError, "exclude each other"),
        ({"id": "nowhere"}, DataError, "'nowhere' for the id, found none.*'id', 'boneage', 'male'"),
    ],
)
def test_wrong_columns_are_refused(
    tmp_path: Path, columns: dict[str, str], error: type[Exception], message: str
) -> None:
    path = write(tmp_path, "id,boneage,male\n1,2,True\n")
    with pytest.raises(error, match=message):
        read_label_table(path, columns)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "found an empty file", id="empty"),
        pytest.param(b"\xef\xbb\xbf\r\n\r\n", "found an empty file", id="blank"),
        pytest.param(
            b"name,height\na,1\n", r"found 'name', 'height'.*--column id=", id="unknown header"
        ),
        pytest.param(b"id,boneage\n1,2\n", "expected columns for case id and sex", id="no sex"),
        pytest.param(b"id,Case ID,sex\n1,2,M\n", "'id' and 'Case ID' could both", id="two ids"),
        pytest.param(b"id,sex,male\n1,M,True\n", "'sex' and 'male' both tell", id="two sexes"),
        pytest.param(b"id,sex\n1,\xe4\n", "expected a text table in UTF-8", id="latin-1"),
        pytest.param(b"\xff\xfei\0d", "expected a text table in UTF-16", id="cut utf-16"),
        pytest.param(b"i\0d\0,\0", "found a binary file", id="utf-16 without mark"),
        pytest.param(b'id,sex\n1,"M\n2,F\n3,F\n', "a quote that is never closed", id="open quote"),
        pytest.param(
            b'id,sex,note\n1,M,"R marker\n2,F,ok\n3,F,"ok again\n4,F,ok\n',
            "a quote in lines 2 to 4 that is closed in the middle of a cell",
            id="two stray quotes",
        ),
    ],
)
def test_unreadable_tables_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_label_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the table"):
        read_label_table(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("header", "cell", "sex"),
    [
        *[("male", cell, Sex.MALE) for cell in ("True", "TRUE", "true", "1", " true ")],
        *[("male", cell, Sex.FEMALE) for cell in ("False", "FALSE", "0")],
        *[("male", cell, None) for cell in ("M", "F", "male", "", "2", "yes", "1.0", "nan")],
        *[("sex", cell, Sex.MALE) for cell in ("M", "m", "male", "Male")],
        *[("sex", cell, Sex.FEMALE) for cell in ("F", "f", "FEMALE")],
        *[("sex", cell, None) for cell in ("1", "0", "True", "", "U", "O", "w", "boy")],
    ],
)
def test_sex_is_read_or_refused_never_guessed(
    tmp_path: Path, header: str, cell: str, sex: Sex | None
) -> None:
    table = read_label_table(write(tmp_path, f"id,{header}\n1377,{cell}\n"))
    if sex is not None:
        assert [row.sex for row in table.rows] == [sex]
        assert table.problems == ()
        return
    assert table.rows == ()
    (problem,) = table.problems
    assert (problem.kind, problem.severity) == ("unknown_sex", "error")
    assert problem.case_id == "1377"
    assert repr(cell) in problem.message
    assert "line 2" in problem.message
    assert "1377" in problem.message


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("0", None),
        ("240", None),
        ("240.0001", "impossible_age"),
        ("-1", "impossible_age"),
        ("nan", "impossible_age"),
        ("inf", "impossible_age"),
        ("1e400", "impossible_age"),
        ("1_0", "impossible_age"),
        ("10 months", "impossible_age"),
        ("", "missing_age"),
        ("  ", "missing_age"),
    ],
)
def test_bone_age_must_be_possible(tmp_path: Path, cell: str, kind: str | None) -> None:
    table = read_label_table(write(tmp_path, f"id,boneage,male\n1377,{cell},True\n"))
    assert kinds(table) == ([] if kind is None else [kind])
    assert len(table.rows) == (kind is None)


def test_chronological_age_may_be_absent_but_not_impossible(tmp_path: Path) -> None:
    content = "id,sex,chronological_age_months\n1,M,\n2,F,250\n3,F,4000\n"
    table = read_label_table(write(tmp_path, content))
    assert [row.chronological_age_months for row in table.rows] == [None, 250.0]
    (problem,) = table.problems
    assert problem.kind == "impossible_age"
    assert "chronological age '4000'" in problem.message


def test_rows_of_another_length_are_malformed(tmp_path: Path) -> None:
    table = read_label_table(write(tmp_path, "id,boneage,male\n1,2\n2,3,True\n3,4,True,x\n"))
    assert [row.case_id for row in table.rows] == ["2"]
    assert kinds(table) == ["malformed_row", "malformed_row"]
    assert "line 2: expected 3 cells as in the header, found 2" in table.problems[0].message
    assert table.problems[1].case_id == "3"


def test_duplicates_lose_all_their_rows(tmp_path: Path) -> None:
    content = "id,boneage,male\n1,2,True\n2,3,True\n1.png,2,True\n3,4,True\n2,3,True\n"
    table = read_label_table(write(tmp_path, content))
    assert [row.case_id for row in table.rows] == ["3"]
    assert [(p.kind, p.case_id) for p in table.problems] == [
        ("duplicate_id", "1"),
        ("duplicate_id", "2"),
    ]
    assert "lines 2, 4" in table.problems[0].message
    assert set(table.refused_images) == {"1", "2", "1.png"}


def test_a_sound_row_does_not_survive_a_faulty_twin(tmp_path: Path) -> None:
    table = read_label_table(write(tmp_path, "id,boneage,male\n1,2,True\n1,2,maybe\n"))
    assert table.rows == ()
    assert kinds(table) == ["unknown_sex", "duplicate_id"]


@pytest.mark.parametrize("cell", ["", " ", "folder/", ".."])
def test_empty_id_is_a_problem(tmp_path: Path, cell: str) -> None:
    table = read_label_table(write(tmp_path, f"id,male,boneage\n{cell},True,3\n"))
    assert kinds(table) == ["missing_id"]
    assert table.rows == ()


def test_header_without_rows_is_a_problem(tmp_path: Path) -> None:
    assert kinds(read_label_table(write(tmp_path, "id,male\n"))) == ["empty_table"]


@pytest.mark.parametrize(
    ("header", "plain"),
    [
        ("Ground truth bone age (months)", "groundtruthboneagemonths"),
        ("image_ID", "imageid"),
        (" Image  ID ", "imageid"),
        ("Größe", "grösse"),
    ],
)
def test_normalise_header(header: str, plain: str) -> None:
    assert normalise_header(header) == plain


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("1377.png", "1377"),
        ("1377.JPeG", "1377"),
        ("1.2.840.dcm", "1.2.840"),
        ("1.2.840", "1.2.840"),
        ("1377", "1377"),
        (".png", ".png"),
        ("1377.txt", "1377.txt"),
    ],
)
def test_strip_image_suffix(name: str, stem: str) -> None:
    assert strip_image_suffix(name) == stem


ROWS = st.lists(
    st.tuples(
        st.text("0123456789abcXYZ-_", min_size=1, max_size=8).map(lambda text: f"{text}k"),
        st.sampled_from([("M", Sex.MALE), ("f", Sex.FEMALE), ("Female", Sex.FEMALE)]),
        st.integers(0, 24000).map(lambda hundredths: hundredths / 100),
        st.text('ä,;\t"x ', max_size=5),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[0],
)


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    order=st.permutations(range(4)),
)
def test_same_rows_whatever_the_spelling(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, tuple[str, Sex], float, str]],
    line_end: str,
    encoding: str,
    delimiter: str,
    order: list[int],
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end)
    table_rows = [["Case ID", "Sex", "bone age", "remark"]]
    table_rows += [[i, sex[0], repr(age), remark] for i, sex, age, remark in rows]
    writer.writerows([[row[k] for k in order] for row in table_rows])
    path = tmp_path_factory.mktemp("t") / "any.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    table = read_label_table(path)
    # All of them may be young enough to pass for years.
    assert [one for one in table.problems if one.kind != "ages_like_years"] == []
    assert facts(table) == [(i, sex[1], age) for i, sex, age, _ in rows]


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200) | st.text("id,sexmalMF01\n\r\"';\t ").map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("t"), content)
    try:
        table = read_label_table(path)
    except DataError as refusal:
        sentence = str(refusal)
        table = None
    assert table is not None or str(path) in sentence
    assert table is None or len({row.case_id for row in table.rows}) == len(table.rows)


def test_columns_without_a_role_are_kept_as_text(tmp_path: Path) -> None:
    content = "id,sex,boneage,Site,,Note,Note\n1,F,12, north ,x,a,b\n2,M,24,,y,c,d\n"
    rows = read_label_table(write(tmp_path, content)).rows
    # Nameless columns and names that stand twice mean nothing certain.
    assert [dict(row.attributes) for row in rows] == [{"Site": "north"}, {"Site": ""}]
    plain = read_label_table(write(tmp_path, "id,sex\n1,F\n")).rows
    assert dict(plain[0].attributes) == {}


def test_cells_of_several_lines_are_kept(tmp_path: Path) -> None:
    content = b'id,sex,note\n1,M,"two\r\nlines, ""quoted"" " \n2,F,"L" marker\n3,F,\n'
    table = read_label_table(write(tmp_path, content))
    assert [row.case_id for row in table.rows] == ["1", "2", "3"]
    assert table.rows[0].attributes["note"] == 'two\r\nlines, "quoted"'
    assert table.rows[1].attributes["note"] == "L marker"
    assert table.n_rows == 3
