"""Report section on region profiles: which regions drive the prediction, at which age and sex."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.analysis.literature import EXPECTATIONS
from boneage_xai.analysis.region_profile import (
    AGREE,
    ALL,
    CANNOT_TELL,
    DIFFER,
    FEW_CASES,
    MORE,
)
from boneage_xai.analysis.stages import STAGES
from boneage_xai.anatomy import OUTSIDE_HAND
from boneage_xai.figures.region_profile import share_by_stage
from boneage_xai.figures.schematic_hand import labelled_hand, schematic_hands
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.profile_wording import (
    Profiled,
    control_sentence,
    how_it_reads,
    points,
    profiled,
    region_words,
    span,
    stage_sentences,
)
from reports.wording import months, percent, preferred_method


def region_profiles(folder: AnalysisFolder) -> Section | None:
    """Say which regions drive the prediction by stage and sex, and compare with expectations."""
    regions = folder.regions()
    if regions is None or regions.empty:
        return None
    found = profiled(folder, preferred_method(list(dict.fromkeys(regions["method"]))))
    if found is None:
        return None
    table = found.profile.table
    blocks: list[Block] = [Text(stage_sentences(found)), Text((how_it_reads(found.profile),))]
    if found.problem is not None:
        blocks.append(Text((f"The control was not used: {found.problem}.",), notice=True))
    blocks += [
        Drawing(
            partial(schematic_hands, table),
            "Schematic hands by stage and sex, regions coloured by their enrichment",
            "Green regions hold more of the magnitude inside the hand than their share of its "
            "area, purple ones less. Bones and joints are drawn at a typical age of the stage, "
            "all to one size. n: cases; outside: share of the magnitude beyond the hand, on the "
            f"marker included. Pale with a dashed outline: fewer than {FEW_CASES} cases.",
            table,
        ),
        Drawing(
            partial(labelled_hand, found.profile.cell(), "share"),
            "A schematic hand whose regions bear their share of the magnitude",
            "All stages and both sexes: share of the magnitude inside the hand. Large regions hold "
            "much by their size alone.",
            found.profile.cell(),
            narrow=True,
        ),
        Text((control_sentence(found, folder),)),
        Drawing(
            partial(share_by_stage, table, None if found.control is None else found.control.table),
            "Share of the magnitude inside the hand by region over the stages",
            "Mean over cases with 95% bootstrap intervals; hollow: few cases. Grey bars: the share "
            "of the hand's area. Diamonds: the same cases with random weights, where there is a "
            "control.",
        ),
        _overall_table(found),
        *_literature_blocks(found),
    ]
    return Section(
        "region-profile", "Which regions drive the prediction, by age and sex", tuple(blocks)
    )


def _overall_table(found: Profiled) -> Table:
    cell = found.profile.cell()
    rows = cell[~cell["region"].isin(OUTSIDE_HAND)].sort_values("enrichment", ascending=False)
    difference = None
    if found.difference is not None:
        all_cases = (found.difference["stage"] == ALL) & (found.difference["sex"] == ALL)
        difference = found.difference[all_cases].set_index("region")
    cells = []
    for row in rows.to_dict("records"):
        control = ("–", "–")
        if difference is not None:
            paired = difference.loc[row["region"]].to_dict()
            control = (
                percent(paired["control_share_of_hand"]),
                f"{points(paired['difference'])}\n"
                f"{points(paired['difference_low'])} to {points(paired['difference_high'])}",
            )
        cells.append(
            (
                region_words(str(row["region"])),
                f"{percent(row['share_of_hand'])}\n{span(row, 'share_of_hand', as_percent=True)}",
                f"{months(row['enrichment'], digits=2)}\n{span(row, 'enrichment')}",
                months(row["months_per_percent_area"], digits=2),
                f"{months(row['signed_months'], signed=True)}\n{_signed_span(row)}",
                *control,
            )
        )
    return Table(
        "All stages and both sexes, with 95% intervals: share of the magnitude inside the hand, "
        "how many times what its area would give, months of magnitude per percent of the image's "
        "area, signed months; share with random weights, and the paired difference in percentage "
        "points. The CSV holds every stage and sex.",
        ("Region", "Share", "× area", "Per 1% area", "Signed", "Random", "Difference"),
        tuple(cells),
        found.profile.table if found.difference is None else _side_by_side(found),
    )


def _signed_span(row: dict[Any, Any]) -> str:
    low, high = (months(row[f"signed_{end}_months"], signed=True) for end in ("low", "high"))
    return "no interval" if pd.isna(row["signed_low_months"]) else f"{low} to {high}"


def _literature_blocks(found: Profiled) -> list[Block]:
    literature = found.literature[found.literature["sex"] != ALL]
    readers = literature[literature["kind"] == "readers"]
    rows = []
    for (source, stage, region), group in readers.groupby(
        ["source", "stage", "region"], sort=False
    ):
        by_sex = {str(row["sex"]): row for row in group.to_dict("records")}
        approximate = " (approximate)" if group["trust"].iloc[0] == "approximate" else ""
        rows.append(
            (
                f"{STAGES[str(stage)].name}\n{source}{approximate}",
                region_words(str(region)),
                *(cell for sex in ("F", "M") for cell in _verdict_cells(by_sex.get(sex))),
            )
        )
    blocks: list[Block] = [
        Table(
            "What readers are taught to look at, and whether this network does: × area with its "
            "95% interval, the verdict, and whether its share is more or less than with random "
            "weights where there is a control.",
            ("Stage and source", "Region", "Girls", "Verdict", "Boys", "Verdict"),
            tuple(rows),
            found.literature,
            words=(0, 1, 3, 5),
        )
    ]
    sentences = []
    for source in dict.fromkeys(one.source for one in EXPECTATIONS if one.kind == "networks"):
        theirs = literature[literature["source"] == source]
        told = theirs.loc[theirs["n"] >= FEW_CASES, "verdict"].value_counts()
        if told.empty:
            continue
        says = " and ".join(dict.fromkeys(one.says for one in EXPECTATIONS if one.source == source))
        trust = ", approximate" if (theirs["trust"] == "approximate").any() else ""
        counts = ", ".join(
            f"{name} {int(told.get(name, 0))}" for name in (AGREE, DIFFER, CANNOT_TELL)
        )
        if "against_control" in theirs:
            agreeing = theirs[(theirs["n"] >= FEW_CASES) & (theirs["verdict"] == AGREE)]
            more = int((agreeing["against_control"] == MORE).sum())
            counts += f"; {more} of the agreeing hold more than with random weights"
        sentences.append(f"{source} ({says}{trust}): {counts}.")
    if sentences:
        blocks.append(
            Text(
                (
                    "What others report of networks, counted over expected regions, stages and "
                    f"sexes with at least {FEW_CASES} cases. {' '.join(sentences)}",
                )
            )
        )
    return blocks


def _verdict_cells(row: dict[Any, Any] | None) -> tuple[str, str]:
    if row is None:
        return "no case", "–"
    value = f"{months(row['enrichment'], digits=2)}\n{span(row, 'enrichment')}"
    if row["n"] < FEW_CASES:
        return value, f"{row['verdict']}\nn = {row['n']}"
    control = f"\nagainst random: {row['against_control']}" if "against_control" in row else ""
    return value, f"{row['verdict']}{control}"


def _side_by_side(found: Profiled) -> pd.DataFrame:
    """Return the profile's table with the control's columns beside."""
    if found.difference is None:
        return found.profile.table
    added = found.difference.drop(columns=["n", "share_of_hand"])
    return found.profile.table.merge(added, on=["stage", "sex", "region"], how="left")
