"""Label tables: every encoding, separator, line end and spelling, and what spoils them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from boneage_xai.phantom.cohorts import draw_cases

from .items import EachRow, Item, Refused, Rows, damaged

_CASES = draw_cases(8, seed=11)
FACTS: dict[str, tuple[str, float | None]] = {
    case.case_id: (case.hand.sex.value, float(case.label_months)) for case in _CASES
}
"""What the tables say: ids, sexes and bone ages of eight phantoms."""

_SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_LINE_ENDS = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}
_ENCODINGS = {
    "utf8": "utf-8",
    "utf8-bom": "utf-8-sig",
    "utf16": "utf-16",
    "utf16-be": "utf-16-be",
    "utf32": "utf-32",
    "latin1": "latin-1",
    "cp1252": "cp1252",
}


def plain_rows(male: str = "True", female: str = "False") -> list[list[str]]:
    """Return id, months and sex of each case, as cells."""
    return [
        [case_id, f"{months:g}", male if sex == "M" else female]
        for case_id, (sex, months) in FACTS.items()
    ]


def _text(rows: Iterable[Iterable[str]], separator: str = ",", line_end: str = "\n") -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator, lineterminator=line_end).writerows(rows)
    return buffer.getvalue()


def table_of(header: str, rows: Iterable[Iterable[str]]) -> bytes:
    """Return a table separated by commas, in UTF-8."""
    return _text([header.split(","), *rows]).encode()


HEADER = "id,boneage,male"


def table_items() -> Iterator[Item]:
    """Yield every label table."""
    yield from _written_ways()
    yield from _sexes()
    yield from _ages()
    yield from _columns()
    yield from _ids()
    yield from _spoilt_text()
    sound = table_of(HEADER, plain_rows())
    yield from damaged("table, text", "labels", ".csv", sound, EachRow())


def _written_ways() -> Iterator[Item]:
    rows = [HEADER.split(","), *plain_rows()]
    spelled = [[*row, extra] for row, extra in zip(rows, ["Größe", *["ä€"] * 8], strict=True)]
    for encoding_name, encoding in _ENCODINGS.items():
        for separator_name, separator in _SEPARATORS.items():
            for end_name, line_end in _LINE_ENDS.items():
                family = "table: encoding, separator, line end"
                name = f"{encoding_name}-{separator_name}-{end_name}"
                text = _text(rows, separator, line_end)
                mark = "\ufeff" if encoding == "utf-16-be" else ""
                yield Item(family, f"{name}.csv", (mark + text).encode(encoding), Rows(FACTS))
        text = _text(spelled).replace("€", "" if encoding == "latin-1" else "€")
        if encoding in ("latin-1", "cp1252"):
            refusal = Refused("bytes that are none")
            yield Item(family, f"{encoding_name}-umlaut.csv", text.encode(encoding), None, refusal)
        elif encoding != "utf-16-be":
            yield Item(family, f"{encoding_name}-umlaut.csv", text.encode(encoding), Rows(FACTS))
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le"):
        text = _text(rows).encode(encoding)
        yield Item(family, f"{encoding}-unmarked.csv", text, refusal=Refused("binary"))


def _sexes() -> Iterator[Item]:
    family = "table: spelling of the sex"
    for male, female in (
        ("M", "F"),
        ("m", "f"),
        ("male", "female"),
        ("Male", "Female"),
        ("MALE", "FEMALE"),
        (" M ", " F "),
    ):
        content = table_of("id,boneage,sex", plain_rows(male, female))
        yield Item(family, f"sex-{male.strip()}{len(male)}.csv", content, Rows(FACTS))
    for male, female in (("True", "False"), ("TRUE", "FALSE"), ("true", "false"), ("1", "0")):
        yield Item(
            family, f"male-{male}.csv", table_of(HEADER, plain_rows(male, female)), Rows(FACTS)
        )
    # A spelling that is not documented loses each row, aloud.
    every = tuple(f"case {case_id} has the sex" for case_id in FACTS)
    for male, female in (
        ("1", "0"),
        ("1", "2"),
        ("Junge", "Mädchen"),
        ("männlich", "weiblich"),
        ("garçon", "fille"),
        ("boy", "girl"),
        ("", ""),
        ("M?", "F?"),
        ("unknown", "other"),
        ("nan", "nan"),
        ("True", "False"),
    ):
        content = table_of("id,boneage,sex", plain_rows(male, female))
        yield Item(family, f"sex-{male or 'blank'}-{female}.csv", content, Rows({}, every))
    every = tuple(f"case {case_id} has the male" for case_id in FACTS)
    for male, female in (("M", "F"), ("yes", "no"), ("1.0", "0.0"), ("2", "3"), ("-1", "+1")):
        content = table_of(HEADER, plain_rows(male, female))
        yield Item(family, f"male-{male}-{female}.csv", content, Rows({}, every))
    spellings = ["M", "female", "1", "", "Junge", "F", "male", "x"]
    rows = [[i, "100", said] for i, said in zip(FACTS, spellings, strict=True)]
    ids = list(FACTS)
    read = {ids[0]: ("M", 100.0), ids[1]: ("F", 100.0), ids[5]: ("F", 100.0), ids[6]: ("M", 100.0)}
    lost = tuple(f"case {ids[i]} has the sex" for i in (2, 3, 4, 7))
    yield Item(family, "sex-mixed.csv", table_of("id,boneage,sex", rows), Rows(read, lost))


def _ages() -> Iterator[Item]:
    family = "table: spelling of the age"
    ids = list(FACTS)

    def one(name: str, cell: str, months: float | None) -> Item:
        rows = plain_rows()
        rows[2][1] = cell
        if months is not None:
            facts = {**FACTS, ids[2]: (FACTS[ids[2]][0], months)}
            return Item(family, f"age-{name}.csv", table_of(HEADER, rows), Rows(facts))
        others = {i: fact for i, fact in FACTS.items() if i != ids[2]}
        lost = (f"line 4: case {ids[2]} has",)
        return Item(family, f"age-{name}.csv", table_of(HEADER, rows), Rows(others, lost))

    for name, cell, months in (
        ("fraction", "94.5", 94.5),
        ("point", "94.", 94.0),
        ("exponent", "9.4e1", 94.0),
        ("plus", "+94", 94.0),
        ("zeros", "0094", 94.0),
        ("zero", "0", 0.0),
        ("comma", "94,5", None),
        ("thousands", "1,094", None),
        ("negative", "-94", None),
        ("nan", "nan", None),
        ("infinite", "inf", None),
        ("overflow", "1e999", None),
        ("huge", "9" * 400, None),
        ("days", "2860", None),
        ("hex", "0x5e", None),
        ("underscore", "9_4", None),
        ("unit", "94 months", None),
        ("years-months", "7;10", None),
        ("range", "90-96", None),
        ("question", "94?", None),
        ("date", "2016-03-01", None),
        ("arabic-digits", "٩٤", None),
        ("formula", "=47*2", None),
        ("empty", "", None),
    ):
        yield one(name, cell, months)
    semicolons = [
        HEADER.split(","),
        *([i, f"{float(a):.1f}".replace(".", ","), m] for i, a, m in plain_rows()),
    ]
    lost = tuple(f"case {i} has the bone age" for i in FACTS)
    content = _text(semicolons, ";").encode()
    yield Item(family, "decimal-comma.csv", content, Rows({}, lost))


def _columns() -> Iterator[Item]:
    family = "table: columns"
    reordered = _text([["male", "id", "boneage"], *([m, i, a] for i, a, m in plain_rows())])
    yield Item(family, "reordered.csv", reordered.encode(), Rows(FACTS))
    wider = [[*row, "note", ""] for row in plain_rows()]
    yield Item(family, "wider.csv", table_of(f"{HEADER},comment,more", wider), Rows(FACTS))
    swapped = table_of("id,male,boneage", plain_rows())
    every = tuple(f"case {i} has the male" for i in FACTS)
    yield Item(family, "swapped.csv", swapped, Rows({}, every))
    shifted = table_of("boneage,id,male", plain_rows())
    # Ids taken for ages and ages for ids: only the range of ages can tell.
    twins: dict[str, list[str]] = {}
    for i, a, _ in plain_rows():
        twins.setdefault(a, []).append(i)
    assert all(len(same) == 1 for same in twins.values())
    facts = {a: (FACTS[i][0], float(i)) for i, a, _ in plain_rows()}
    yield Item(family, "shifted.csv", shifted, Rows(facts, ("looks like years",)))
    for name, header, why in (
        ("no-header", "1,100,True", "expected columns"),
        ("no-sex", "id,boneage,colour", "expected columns"),
        ("no-id", "name,boneage,male", "expected columns"),
        ("two-ids", "id,id,male", "could both be the id"),
        ("two-ages", "id,boneage,male,bone_age", "could both be the age"),
        ("two-sexes", "id,sex,male", "both tell the sex"),
        ("blank-header", ",,", "empty"),
    ):
        rows = [] if name == "blank-header" else plain_rows()
        yield Item(family, f"{name}.csv", table_of(header, rows), refusal=Refused(why))
    bare = _text([["id", "male"], *([i, m] for i, _, m in plain_rows())]).encode()
    ageless: dict[str, tuple[str, float | None]] = {i: (sex, None) for i, (sex, _) in FACTS.items()}
    yield Item(family, "no-age.csv", bare, Rows(ageless))
    years = [[i, f"{float(a) / 12:.1f}", m] for i, a, m in plain_rows()]
    facts = {i: (FACTS[i][0], float(a)) for i, a, _ in years}
    yield Item(family, "years.csv", table_of(HEADER, years), Rows(facts, ("looks like years",)))


def _ids() -> Iterator[Item]:
    family = "table: ids"
    ids = list(FACTS)

    def renamed(name: str, given: str, read: str | None, lost: tuple[str, ...] = ()) -> Item:
        rows = plain_rows()
        rows[0][0] = given
        facts = {i: fact for i, fact in FACTS.items() if i != ids[0]}
        if read is not None:
            facts[read] = FACTS[ids[0]]
        return Item(family, f"id-{name}.csv", table_of(HEADER, rows), Rows(facts, lost))

    for name, given, read in (
        ("suffix", "1377.png", "1377"),
        ("zeros", "0001", "0001"),
        ("folder", "hands/1377.png", "1377"),
        ("escape", "../../../etc/passwd", "passwd"),
        ("absolute", "/etc/shadow", "shadow"),
        ("windows", "C:\\hands\\1377.png", "1377"),
        ("spaces", "left hand 7", "left hand 7"),
        ("markup", "<script>alert(1)<script>", "<script>alert(1)<script>"),
        ("umlaut", "Jürgen", "Jürgen"),
        ("quote", 'a"b', 'a"b'),
        ("formula", "=cmd|' /C calc'!A0", "A0"),
        ("long", "x" * 300, "x" * 300),
    ):
        if name == "formula":
            given, read = "=1+1", "=1+1"
        yield renamed(name, given, read)
    for name, given in (
        ("empty", ""),
        ("dots", ".."),
        ("dot", "."),
        ("slash", "hands/"),
        ("line", "13\n77"),
        ("escape-code", "\x1b[31m1377"),
        ("bell", "1377\x07"),
        ("right-to-left", "1377\u202egnp"),
    ):
        yield renamed(name, given, None, ("expected a case id",))
    doubled = [*plain_rows(), plain_rows()[3], plain_rows()[3]]
    facts = {i: fact for i, fact in FACTS.items() if i != ids[3]}
    told = (f"case {ids[3]} stands in lines 5, 10, 11",)
    yield Item(family, "doubled.csv", table_of(HEADER, doubled), Rows(facts, told))
    contradicting = [*plain_rows(), [ids[3], "12", "maybe"]]
    told = (f"case {ids[3]} stands in lines 5, 10",)
    yield Item(family, "contradicting.csv", table_of(HEADER, contradicting), Rows(facts, told))
    again = [*plain_rows(), [f"{ids[3]}.png", "12", "True"]]
    yield Item(family, "doubled-by-suffix.csv", table_of(HEADER, again), Rows(facts, told))


def _spoilt_text() -> Iterator[Item]:
    family = "table: spoilt text"
    sound = table_of(HEADER, plain_rows()).decode()
    ids = list(FACTS)
    lines = sound.splitlines()
    without = {i: fact for i, fact in FACTS.items() if i != ids[1]}
    for name, line in (
        ("short", ids[1]),
        ("long", f"{lines[2]},7,8"),
        ("one-more", f"{lines[2]},"),
    ):
        ragged = "\n".join([*lines[:2], line, *lines[3:]]).encode()
        told = ("line 3: expected 3 cells",)
        yield Item(family, f"ragged-{name}.csv", ragged, Rows(without, told))
    blank = sound.replace("\n", "\n\n,,\n\n").encode()
    yield Item(family, "blank-lines.csv", blank, Rows(FACTS))
    quoted = "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in lines)
    yield Item(family, "quoted.csv", quoted.encode(), Rows(FACTS))
    yield Item(family, "no-last-line-end.csv", sound.rstrip().encode(), Rows(FACTS))
    yield Item(family, "padded.csv", sound.replace(",", " , ").encode(), Rows(FACTS))
    noted = f"{HEADER},comment\n" + "".join(f'{line},"a\nb, c"\n' for line in lines[1:])
    yield Item(family, "lines-in-cells.csv", noted.encode(), Rows(FACTS))
    for name, content, why in (
        ("empty", b"", "empty"),
        ("mark-alone", b"\xef\xbb\xbf", "empty"),
        ("blank", b"\n \n\r\n", "empty"),
        ("nul", sound.encode().replace(b"True", b"Tr\0e", 1), "binary"),
        ("nuls", bytes(500), "binary"),
        ("open-quote", sound.encode().replace(b"True", b'"True', 1), "expected"),
        ("huge-cell", sound.encode() + b"9," + b"x" * 200_000 + b",True\n", "cannot be split"),
        ("image", b"\x89PNG\r\n\x1a\n" + bytes(50), "bytes that are none"),
        ("html", b"<html><body>Not found</body></html>", "expected columns"),
        ("json", b'{"id": 1, "boneage": 2, "male": true}', "expected"),
    ):
        yield Item(family, f"{name}.csv", content, refusal=Refused(why))
    yield Item(
        family, "header-alone.csv", f"{HEADER}\n".encode(), Rows({}, ("found a header alone",))
    )
    wide = ",".join([HEADER, *(f"c{i}" for i in range(20_000))])
    rows = [[*row, *["0"] * 20_000] for row in plain_rows()]
    yield Item(family, "wide.csv", table_of(wide, rows), Rows(FACTS))
    lined = f"{HEADER}\n" + "1,2,True\n" * 300_000
    lost = ("case 1 stands in lines 2, 3",)
    yield Item(family, "one-id-300000-times.csv", lined.encode(), Rows({}, lost))
    refusal = Refused("at most 1200000 rows")
    longer = f"{HEADER}\n" + "1,2,True\n" * 1_200_001
    yield Item(family, "one-row-too-many.csv", longer.encode(), refusal=refusal)
    yield Item(family, "commas-25MB.csv", b"," * 25_000_000, refusal=Refused("expected"))
    yield Item(family, "commas-40MB.csv", b"," * 40_000_000, refusal=Refused("32 MB, found 40 MB"))
