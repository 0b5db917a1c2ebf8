"""Maps and region sums of many cases, as they go into an analysis folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from boneage_xai.errors import DataError
from boneage_xai.types import FloatImage, RegionMap

_HIGHEST_LABEL = 255
_REGION_VALUES = ["signed_months", "absolute_months", "area_fraction"]


class RegionSums:
    """Region sums of many maps, kept as bare numbers, since a data frame each takes 100 kB."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, str, tuple[str, ...]]] = []
        self.values: list[npt.NDArray[np.float64]] = []
        self.known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add(self, case_id: str, method: str, table: pd.DataFrame) -> None:
        """Keep the region table of one map."""
        regions = tuple(table["region"])
        self.keys.append((case_id, method, self.known.setdefault(regions, regions)))
        self.values.append(np.array(table[_REGION_VALUES], dtype=np.float64))

    def frame(self) -> pd.DataFrame | None:
        """Return all rows as one table, None where no case has regions."""
        if not self.keys:
            return None
        rows = [
            (case_id, method, region) for case_id, method, names in self.keys for region in names
        ]
        keys = pd.DataFrame(rows, columns=["case_id", "method", "region"], dtype="string")
        values = pd.DataFrame(np.concatenate(self.values), columns=_REGION_VALUES)
        return pd.concat([keys, values], axis=1)


class MapsWriter:
    """The Zarr group of one cohort, filled chunk by chunk."""

    def __init__(
        self,
        path: Path,
        case_ids: Sequence[str],
        shape: tuple[int, ...],
        methods: Sequence[str],
        layers: Sequence[str],
    ) -> None:
        self.n = len(case_ids)
        self.shape = shape
        self.names: dict[int, str] = {}
        self.with_regions: list[str] = []
        self.group = zarr.create_group(
            store=path,
            zarr_format=3,
            attributes={
                "case_ids": list(case_ids),
                "methods": list(methods),
                "layers": list(layers),
            },
        )
        self.arrays = {"inputs": self._array("inputs", shape, "uint8")}
        for method in methods:
            self.arrays[method] = self._array(method, shape, "float32")

    def _array(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        return self.group.create_array(
            name, shape=(self.n, *shape), chunks=(1, *shape), dtype=dtype
        )

    def write_input(self, index: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Write the prepared image (H, W) of a case."""
        self.arrays["inputs"][index] = pixels

    def write_map(self, index: int, method: str, map_months: FloatImage) -> None:
        """Write the map (H, W) of a case and method."""
        self.arrays[method][index] = map_months

    def write_activation(self, index: int, layer: str, values: FloatImage) -> None:
        """Write the activation map (h, w) of a case and layer."""
        # The size of a layer's map is known once the first case has run.
        name = f"activations/{layer}"
        if name not in self.arrays:
            self.arrays[name] = self._array(name, values.shape, "float32")
        self.arrays[name][index] = values

    def write_regions(self, index: int, case_id: str, regions: RegionMap) -> None:
        """Write the region map of a case.

        Raises:
            DataError: another grid, labels out of range, or names unlike those before.
        """
        if regions.labels.shape != self.shape:
            raise DataError(
                f"case {case_id}: expected a region map on the input grid {self.shape}, "
                f"found {regions.labels.shape}"
            )
        if not 0 <= regions.labels.min() <= regions.labels.max() <= _HIGHEST_LABEL:
            raise DataError(
                f"case {case_id}: expected region labels from 0 to {_HIGHEST_LABEL}, "
                f"found {regions.labels.min()} to {regions.labels.max()}"
            )
        for value, name in regions.names.items():
            if self.names.setdefault(value, name) != name:
                raise DataError(
                    f"case {case_id}: expected label {value} to be {self.names[value]} as in "
                    f"the cases before, found {name}"
                )
        if "regions" not in self.arrays:
            self.arrays["regions"] = self._array("regions", self.shape, "uint8")
        self.arrays["regions"][index] = regions.labels.astype(np.uint8)
        self.with_regions.append(case_id)

    def finish(self) -> None:
        """Record the names of the regions, once all cases are written."""
        if self.with_regions:
            self.arrays["regions"].attrs.update(
                {
                    "names": {str(value): name for value, name in sorted(self.names.items())},
                    "case_ids": self.with_regions,
                }
            )
