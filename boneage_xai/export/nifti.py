"""Attribution maps and regions as NIfTI images, with a JSON beside them that says what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from boneage_xai.errors import ConfigError
from boneage_xai.export.cases import ExportedCase, on_source, sums_of, unit_of
from boneage_xai.files import write_json
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Case

_ALIGNED = 2  # NIFTI_XFORM_ALIGNED_ANAT: aligned to another image, here the radiograph


class NiftiWriter:
    """Write each case's maps, regions and their description.

    Args:
        folder: the analysis.
        cases: not used by this format.
        methods: not used by this format.

    Raises:
        ConfigError: nibabel is not installed.
    """

    def __init__(
        self, folder: AnalysisFolder, cases: Sequence[Case], methods: Sequence[str]
    ) -> None:
        try:
            import nibabel  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "export to NIfTI: expected the package nibabel, found none; install "
                "boneage-xai[nifti]"
            ) from error
        self.facts: Mapping[str, Any] = {"axes": "x to the image's right, y down, one slice"}
        self._model_id = folder.manifest["run"].get("model_id")
        attributed = folder.manifest["steps"].get("attribute", {})
        self._settings = attributed.get("settings")

    def __call__(self, exported: ExportedCase, folder: Path, stem: str) -> Mapping[str, str]:
        """Write ``STEM_METHOD.nii.gz``, ``STEM_regions.nii.gz`` and ``STEM.json``."""
        spacing_mm = exported.radiograph.pixel_spacing_mm
        files: dict[str, str] = {}
        maps: dict[str, Any] = {}
        for method, values in exported.maps.items():
            files[method] = f"{stem}_{method}.nii.gz"
            shown = on_source(method, values, exported.source_map)
            _write(folder / files[method], shown, spacing_mm, "months, + older, - younger")
            row = exported.attributes.get(method, {})
            baseline = row.get("baseline")
            maps[method] = {
                "file": files[method],
                "unit": unit_of(method),
                **sums_of(method, values, exported.source_map),
                "baseline": baseline if isinstance(baseline, str) else None,
                "prediction_months": row.get("prediction_months"),
                "completeness_gap_months": row.get("completeness_gap_months"),
            }
        description: dict[str, Any] = {
            "case_id": exported.case.case_id,
            "sex": exported.case.sex.value,
            "model_id": self._model_id,
            "settings": self._settings,
            "sign": "positive makes the prediction older",
            "pixel_spacing_mm": None if spacing_mm is None else list(spacing_mm),
            "pixel_spacing_assumed": spacing_mm is None,
            "maps": maps,
        }
        if exported.regions is not None:
            labels = exported.regions.labels
            files["regions"] = f"{stem}_regions.nii.gz"
            kind = np.uint8 if labels.max() <= np.iinfo(np.uint8).max else np.uint16
            _write(folder / files["regions"], labels.astype(kind), spacing_mm, "hand regions")
            description["regions"] = {
                "file": files["regions"],
                "labels": {str(value): name for value, name in exported.regions.names.items()},
            }
        files["description"] = f"{stem}.json"
        write_json(folder / files["description"], description)
        return files


def _write(
    path: Path,
    pixels: npt.NDArray[Any],
    spacing_mm: tuple[float, float] | None,
    content: str,
) -> None:
    """Write an image (H, W) as a slice of its first two axes, x then y."""
    import nibabel

    row_mm, column_mm = spacing_mm or (1.0, 1.0)
    # World axes are right and anterior; the image's run right to left and downwards, as readers of
    # pictures without a place in space assume.
    affine = np.diag([-column_mm, -row_mm, 1.0, 1.0])
    image = nibabel.Nifti1Image(np.ascontiguousarray(pixels.T[..., None]), affine)
    image.set_qform(affine, code=_ALIGNED)
    image.set_sform(affine, code=_ALIGNED)
    image.header.set_xyzt_units("mm")
    spacing = "pixel spacing of the source" if spacing_mm else "spacing unknown, 1 mm assumed"
    image.header["descrip"] = f"{content}; {spacing}".encode("ascii")
    nibabel.save(image, path)
