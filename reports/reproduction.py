"""The page of a reproduction: both studies' tables beside ours, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boneage_xai.analysis.published import (
    PUBLISHED,
    STUDY_CASES,
    STUDY_NAMES,
    PublishedError,
    published_error,
)
from boneage_xai.figures.reproduction import HIGHEST_MONTHS
from boneage_xai.files import write_bytes, write_json, write_text
from reports.groups_section import p_text
from reports.reproduction_cells import (
    SET_WORDS,
    Record,
    arm_words,
    difference_text,
    estimate_cell,
    markdown_table,
    measured_sets,
    our_cells,
    our_columns,
    published_text,
    reasons,
    set_name,
    setting_text,
    sex_verdict,
    state_text,
    without_home,
)
from reports.wording import BASELINE_NAMES, RESEARCH_USE, layer_name, months

RECORD_FILE = "reproduction.json"
PAGE_FILE = "reproduction.md"

_FINISH_WORDS = {
    "wouters": "VGG16 and ResNet18, fine-tuned from ImageNet",
    "kimmel": "Inception v3 and ResNet101, from scratch",
}


def write_reproduction(folder: Path, record: Record, docs_page: Path | None = None) -> Path:
    """Write the record and its page.

    Args:
        folder: of the reproduction; its ``figures/`` are what the page shows.
        record: as from ``analysis.reproduction.reproduction_record``, with ``figures``.
        docs_page: a second page without any radiograph, for publication; its charts go into a
            folder ``images`` beside it.

    Returns:
        The page.
    """
    write_json(folder / RECORD_FILE, record)
    page = folder / PAGE_FILE
    write_text(page, reproduction_page(record, images="figures", radiographs=True))
    if docs_page is not None:
        images = docs_page.parent / "images" / docs_page.stem
        for name in _charts(record).values():
            write_bytes(images / name, (folder / "figures" / name).read_bytes())
        text = reproduction_page(record, images=f"images/{docs_page.stem}", radiographs=False)
        write_text(docs_page, text)
    return page


def _charts(record: Record) -> dict[str, str]:
    """Return the figures that show no radiograph."""
    return dict(record["figures"]["charts"])


def reproduction_page(record: Record, *, images: str, radiographs: bool) -> str:
    """Write the page.

    Args:
        record: as for ``write_reproduction``.
        images: folder of the figures, from the page.
        radiographs: whether figures that show radiographs are in.

    Returns:
        Markdown.
    """
    parts = [_head(record)]
    for study in STUDY_NAMES:
        if arms := [arm for arm in record["arms"] if arm["study"] == study]:
            parts.append(_study(record, study, arms))
    if own := [arm for arm in record["arms"] if arm["study"] is None]:
        parts.append(_own(record, own))
    parts += [_yardsticks(record), _sex(record, images), _training(record, images)]
    parts.append(_activations(record, images, radiographs))
    if radiographs:
        parts.append(_examples(record, images))
    parts += [_departures(record), _making(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _trained_less(arm: Record) -> bool:
    return any(
        one["key"] in ("training.epochs", "preprocessing.size_px") and one["used"] < one["shipped"]
        for one in arm["departures"]
    )


def _head(record: Record) -> str:
    arms = record["arms"]
    counts = {
        words: [arm["name"] for arm in arms if arm["status"] == status]
        for status, words in (
            ("complete", "complete"),
            ("partial", "partly trained"),
            ("not begun", "not begun"),
            ("not run", "not run"),
            ("failed", "failed"),
        )
    }
    said = "; ".join(f"{len(names)} {words}" for words, names in counts.items() if names)
    sets = [
        "Numbers on different sets stand in different columns and must not be compared with each "
        "other: a validation label is one reader's, the official test set of 200 has the consensus "
        "of six, on which good models score lower.",
    ]
    if record.get("test") is None:
        sets.append(
            "No test set was given, so that nothing here is measured where the studies' "
            "test numbers were."
        )
    changed = [arm for arm in arms if arm["departures"]]
    if changed:
        sets.append(
            f"**{len(changed)} of {len(arms)} arms depart from their recipe**: see "
            "[Departures](#departures)."
        )
    if less := sum(map(_trained_less, arms)):
        sets.append(
            f"Fewer epochs or smaller inputs than in their recipe: {less} of {len(arms)} arms. "
            "Complete means all that was asked for, not all that the recipe would reach."
        )
    return "\n\n".join(
        [
            "# Two studies of bone age, trained again",
            "Written by `boneage-xai reproduce`, which measured every number in a column called "
            "*ours*. Errors are mean absolute errors in months with bootstrap 95% intervals over "
            "cases.",
            f"Of {len(arms)} arms: {said}.",
            " ".join(sets),
            RESEARCH_USE,
        ]
    )


def _study(record: Record, study: str, arms: Sequence[Record]) -> str:
    columns = ["arm", f"study: {SET_WORDS['test']}"]
    overall = {one.what: one for one in _published(study, "validation", None)}
    if overall:
        columns.append(f"study: {SET_WORDS['validation']}")
    columns += [*our_columns(record), "training"]
    rows = []
    for arm in arms:
        known = published_error(study, arm["network"], arm["with_sex"], "test")
        row = [arm_words(arm), published_text(known)]
        if overall:
            one = overall.get(arm["network"])
            row.append("–" if one is None else f"{published_text(one)} \\*")
        rows.append([*row, *our_cells(record, arm), state_text(arm)])
    text = f"## {STUDY_NAMES[study]}: {_FINISH_WORDS[study]}\n\n{markdown_table(columns, rows)}"
    if any(arm["network"] in overall for arm in arms):
        text += "\n\n\\* Given once for each network, without saying for which of its arms."
    return text + _why(arms)


def _why(arms: Sequence[Record]) -> str:
    return "".join(f"\n\n{reason}." for reason in reasons(arms))


def _published(study: str, measured_on: str, with_sex: bool | None) -> list[PublishedError]:
    return [
        one
        for one in PUBLISHED
        if (one.study, one.measured_on, one.with_sex) == (study, measured_on, with_sex)
    ]


def _own(record: Record, arms: Sequence[Record]) -> str:
    rows = [
        [f"`{arm['name']}`", arm["description"], *our_cells(record, arm), state_text(arm)]
        for arm in arms
    ]
    columns = ["recipe", "what it is", *our_columns(record), "training"]
    return f"## Recipes of our own\n\n{markdown_table(columns, rows)}{_why(arms)}"


def _yardsticks(record: Record) -> str:
    sets = measured_sets(record)
    blanks, rows = ["–" for _ in sets], []
    for one in PUBLISHED:
        if one.study is None or one.measured_on == "not stated":
            by = "" if one.study is None else f" ({STUDY_NAMES[one.study]})"
            words = f"{one.what[0].upper()}{one.what[1:]}{by}"
            rows.append([words, published_text(one), SET_WORDS[one.measured_on], *blanks])
    for name, words in BASELINE_NAMES.items():
        cells = [estimate_cell(record["baselines"].get(one, {}).get(name)) for one in sets]
        rows.append([words, "–", "–", *cells])
    columns = ["", "published", "measured on", *our_columns(record)]
    return (
        "## What a network must beat, and what readers reach\n\n"
        f"{markdown_table(columns, rows)}\n\n"
        "The baselines see no bone. They are fitted on the training cases of the arms."
    )


def _sex(record: Record, images: str) -> str:
    parts = ["## Does the sex help?"]
    for name in measured_sets(record):
        pairs = record["sex"].get(name) or []
        if not pairs:
            continue
        rows = []
        for pair in pairs:
            rows.append(
                [
                    f"`{pair['twin']}`",
                    months(pair["with_sex_months"], digits=2),
                    months(pair["image_only_months"], digits=2),
                    difference_text(pair["difference_months"]),
                    p_text(pair["p_value"]),
                    p_text(pair["p_holm"]),
                    sex_verdict(pair),
                ]
            )
        columns = ["arms", "with sex", "image only", "difference (95% interval)", "p", "p, Holm"]
        parts.append(f"On {pairs[0]['n']:,} cases ({set_name(record, name)}):")
        parts.append(markdown_table([*columns, "the sex"], rows))
        chart = _charts(record).get(f"sex-{name}")
        if chart:
            parts.append(f"![Difference with and without the sex]({images}/{chart})")
    if len(parts) == 1:
        parts.append("No arm was evaluated both with and without the sex.")
    else:
        parts.append(
            "Both arms read the same cases, so that the difference is paired: its interval comes "
            "from resampling cases, p from Wilcoxon's signed-rank test on the absolute errors, "
            "corrected over the pairs after Holm. Each arm was trained once: none of this covers "
            "what another seed of the training would give."
        )
    return "\n\n".join(parts)


def _training(record: Record, images: str) -> str:
    begun = [arm for arm in record["arms"] if arm["seconds_per_epoch"] is not None]
    if not begun:
        return ""
    rows = [
        [
            f"`{arm['name']}`",
            str(arm["epochs"]),
            f"{arm['seconds_per_epoch']:.3g}",
            f"{arm['hours']:.2f}",
            ", ".join(arm["devices"]) or "–",
        ]
        for arm in begun
    ]
    columns = ["arm", "epochs", "seconds an epoch (median)", "hours in all", "device"]
    parts = ["## Training", markdown_table(columns, rows)]
    if chart := _charts(record).get("curves"):
        parts.append(f"![Training and validation error per epoch]({images}/{chart})")
        parts.append(
            "Error on training cases is that of augmented images while the weights change; on "
            "validation cases, that at the end of the epoch. The scale ends at "
            f"{HIGHEST_MONTHS} months."
        )
    return "\n\n".join(parts)


def _activations(record: Record, images: str, radiographs: bool) -> str:
    known = [arm for arm in record["arms"] if arm.get("activations")]
    shown = [arm for arm in known if arm["activations"]["n"]]
    parts = ["## Activation maps by layer, beside random weights"]
    if shown:
        parts += _activation_maps(record, shown, images, radiographs)
    parts += [
        f"No maps of `{arm['name']}`: {without_home(arm['activations']['reason'])}."
        for arm in known
        if arm not in shown
    ]
    return "\n\n".join(parts) if known else ""


def _activation_maps(
    record: Record, shown: Sequence[Record], images: str, radiographs: bool
) -> list[str]:
    rows = [
        [
            f"`{arm['name']}`" if place == 0 else "",
            f"`{layer_name(one['layer'])}`",
            f"{one['size_px']} × {one['size_px']}",
            difference_text(one["rank_correlation"]),
        ]
        for arm in shown
        for place, one in enumerate(arm["activations"]["layers"])
    ]
    n = shown[0]["activations"]["n"]
    parts = [
        "A study reads from such maps that early layers look at the epiphyses of the metacarpals "
        "and later ones at the wrist or at several fingers. How much of the hand a place of a "
        "layer sees grows with depth in any network. What was learnt is what differs from a copy "
        "with random weights. Rank correlation of the two maps of a case, mean over "
        f"{n} validation cases (95% interval); 1 is the same map, 0 an unrelated one:",
        markdown_table(["arm", "layer", "map", "correlation with random weights"], rows),
    ]
    if radiographs:
        parts += [
            f"![Activation maps of {arm['name']}, and of random weights]"
            f"({images}/{record['figures']['arms'][arm['name']]['activations']})"
            for arm in shown
        ]
    return parts


def _examples(record: Record, images: str) -> str:
    pictures = [
        f"`{arm}`\n\n![Cases with their predictions by {arm}]({images}/{names['examples']})"
        for arm, names in record["figures"]["arms"].items()
        if "examples" in names
    ]
    if not pictures:
        return ""
    return "\n\n".join(
        [
            "## Example cases",
            "Four validation cases, the same for every arm, as the network sees them. They show "
            "radiographs of children: keep them out of anything published.",
            *pictures,
        ]
    )


def _departures(record: Record) -> str:
    arms = record["arms"]
    parts = ["## Departures"]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for arm in arms:
        for one in arm["departures"]:
            key = (one["key"], setting_text(one["shipped"]), setting_text(one["used"]))
            groups.setdefault(key, []).append(arm["name"])
    if groups:
        rows = [
            [f"`{key}`", shipped, used, _names(names, arms)]
            for (key, shipped, used), names in groups.items()
        ]
        parts.append(markdown_table(["key", "in the recipe", "here", "arms"], rows))
    else:
        parts.append("Every arm was trained by its recipe as it is shipped.")
    data = record["data"]
    if data["n"] != STUDY_CASES["train"] + STUDY_CASES["validation"]:
        parts.append(
            f"The studies split 12,611 radiographs into {STUDY_CASES['train']:,} and "
            f"{STUDY_CASES['validation']:,}; here are {data['n']:,}."
        )
    parts.append(
        "Where the studies are silent (which blocks are fine-tuned, how ages are scaled), the "
        "recipes choose: see `docs/training.md`."
    )
    return "\n\n".join(parts)


def _names(names: Sequence[str], arms: Sequence[Record]) -> str:
    return "all" if len(names) == len(arms) else ", ".join(f"`{name}`" for name in names)


def _libraries(record: Record) -> list[str]:
    """Return the libraries that arms were trained with, of every machine that trained some."""
    trained = [arm["versions"] for arm in record["arms"] if arm.get("versions")]
    described = [
        ", ".join(f"{name} {one}" for name, one in versions.items())
        for versions in trained or [record["versions"]]
    ]
    return list(dict.fromkeys(described))


def _making(record: Record) -> str:
    data, test = record["data"], record.get("test")
    rows = [
        ["Command", f"`{record['command']}`"],
        ["Training data", f"{data['source']}: {data['n']:,} cases with a bone age"],
    ]
    if data["skipped_problem_rows"]:
        rows.append(["Rows with problems left out", f"{data['skipped_problem_rows']:,}"])
    if test is not None:
        rows.append(["Test data", f"{test['source']}: {test['n']:,} cases with a bone age"])
    rows += [
        ["Seed", str(record["seed"])],
        ["Toolkit", f"boneage_xai {record['toolkit_version']}"],
        *(["Libraries", one] for one in _libraries(record)),
        ["Begun", record["begun"]],
    ]
    return f"## How this was made\n\n{markdown_table(['', ''], rows)}"
