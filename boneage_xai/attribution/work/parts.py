"""Parts: what a finished block leaves beside its maps, and the tables that parts become.

A part is a small JSON file with a checksum. It is written after the maps of its block, so a block
whose part is whole is done.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from boneage_xai.attribution.work.job import digest
from boneage_xai.errors import DataError
from boneage_xai.files import staged_file, write_durably

# Columns of nothing but None would otherwise be written without a type.
ATTRIBUTION_TYPES = {
    "case_id": "string",
    "method": "string",
    "baseline": "string",
    "prediction_months": "float64",
    "baseline_prediction_months": "float64",
    "completeness_gap_months": "float64",
    "map_error_fraction": "float64",
    "nodes": "Int64",
    "converged": "boolean",
    "precision": "string",
    "sex_effect_months": "float64",
    "seconds": "float64",
}
REGION_TYPES = {
    "case_id": "string",
    "method": "string",
    "region": "string",
    "signed_months": "float64",
    "absolute_months": "float64",
    "area_fraction": "float64",
}

_ROWS_TOGETHER = 2**15


@dataclass(frozen=True, eq=False)
class Part:
    """What a block leaves beside its maps.

    Args:
        claim: digest of the claim it was computed for.
        block: its number.
        case_ids: its cases.
        attributions: columns of ``ATTRIBUTION_TYPES``, a row per case and method.
        regions: columns of ``REGION_TYPES``, a row per case, method and region.
        region_names: label to its name and the first case that has it.
        with_regions: cases that have a region map.
        chunks: files of the block inside the Zarr group, with their CRC-32.
    """

    claim: str
    block: int
    case_ids: Sequence[str]
    attributions: Mapping[str, Sequence[Any]]
    regions: Mapping[str, Sequence[Any]]
    region_names: Mapping[str, Sequence[str]]
    with_regions: Sequence[str]
    chunks: Mapping[str, int]


def part_path(folder: Path, block: int) -> Path:
    """Return where the part of a block lies."""
    return folder / f"{block:06d}.json"


def write_part(folder: Path, part: Part) -> None:
    """Write a part whole or not at all, on disk when this returns."""
    content = asdict(part)
    text = json.dumps({"sha256": digest(content), "part": content}, ensure_ascii=False)
    write_durably(part_path(folder, part.block), text.encode())


def read_part(
    folder: Path, block: int, claim: str, case_ids: Sequence[str], maps: Path
) -> Part | None:
    """Read the part of a block.

    Args:
        folder: where parts lie.
        block: its number.
        claim: digest of the claim that it must have been computed for.
        case_ids: the cases that it must hold.
        maps: the Zarr group that its chunks must lie in.

    Returns:
        None where there is none, or one that is damaged, of another claim or block, or without
        its maps: the block is then to be computed again.
    """
    try:
        envelope = json.loads(part_path(folder, block).read_bytes())
        content = envelope["part"]
        if envelope["sha256"] != digest(content):
            return None
        part = Part(**content)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if (part.claim, part.block, list(part.case_ids)) != (claim, block, list(case_ids)):
        return None
    if any(_crc32(maps / name) != crc for name, crc in part.chunks.items()):
        return None
    return part


class RegionNames:
    """Names of the region labels of a cohort, which must not contradict each other."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def add(self, found: Mapping[str, Sequence[str]]) -> None:
        """Take note of the names of some cases.

        Args:
            found: label to its name and a case that has it.

        Raises:
            DataError: another name than in the cases before.
        """
        for value, (name, case_id) in found.items():
            if self.names.setdefault(value, name) != name:
                raise DataError(
                    f"case {case_id}: expected label {value} to be {self.names[value]} as in "
                    f"the cases before, found {name}"
                )


def write_tables(parts: Iterable[Part], attributions: Path, regions: Path) -> bool:
    """Merge parts into the tables, a part at a time, so that memory does not grow with them.

    Args:
        parts: in the order of their blocks.
        attributions: the table of one row per case and method.
        regions: the table of one row per case, method and region; not written without rows.

    Returns:
        Whether any case has regions.
    """
    with (
        staged_file(attributions) as staged,
        staged_file(regions) as staged_regions,
        _Table(staged, ATTRIBUTION_TYPES) as table,
        _Table(staged_regions, REGION_TYPES) as region_table,
    ):
        for part in parts:
            table.add(part.attributions)
            region_table.add(part.regions)
    if region_table.rows == 0:
        regions.unlink()
    return region_table.rows > 0


class _Table:
    """A Parquet file that grows by small pieces and keeps few of them in memory."""

    def __init__(self, path: Path, types: Mapping[str, str]) -> None:
        empty = pd.DataFrame({name: [] for name in types}).astype(types)
        # With pandas' own notes in it, so that columns come back as the types they had.
        self.schema = pa.Schema.from_pandas(empty, preserve_index=False)
        self.path = path
        self.waiting: list[Any] = []
        self.rows = 0

    def __enter__(self) -> _Table:
        self.writer = pq.ParquetWriter(self.path, self.schema, write_page_checksum=True)
        return self

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.waiting.append(pa.table(dict(columns), schema=self.schema))
        self.rows += len(self.waiting[-1])
        if sum(map(len, self.waiting)) >= _ROWS_TOGETHER:
            self._flush()

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self.writer.close()

    def _flush(self) -> None:
        if self.waiting:
            self.writer.write_table(pa.concat_tables(self.waiting).combine_chunks())
        self.waiting = []


def columns_of(rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> dict[str, list[Any]]:
    """Turn rows into columns."""
    return {name: [row[name] for row in rows] for name in types}


def blocks_of(n_cases: int, size: int) -> Iterator[range]:
    """Divide cases into blocks, by their number alone and not by where a resume begins."""
    for start in range(0, n_cases, size):
        yield range(start, min(start + size, n_cases))


def _crc32(path: Path) -> int | None:
    try:
        return zlib.crc32(path.read_bytes())
    except OSError:
        return None
