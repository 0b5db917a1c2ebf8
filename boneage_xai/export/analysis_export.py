"""An analysis folder's maps and regions, written for other tools into a folder of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from boneage_xai import __version__
from boneage_xai.export.cases import (
    ExportedCase,
    attributed_cases,
    read_cases,
    sums_of,
    unit_of,
)
from boneage_xai.export.dicom import DicomWriter
from boneage_xai.export.file_names import safe_file_names
from boneage_xai.export.nifti import NiftiWriter
from boneage_xai.export.overlays import OverlayWriter
from boneage_xai.files import staged_folder, write_json
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Case, Cohort

FormatName = Literal["dicom", "nifti", "png"]
INDEX_FILE = "export.json"

Progress = Callable[[int, int], None]


class CaseWriter(Protocol):
    """What writes the files of one case after the other.

    ``facts`` are what all its files have in common, for ``export.json``.
    """

    facts: Mapping[str, Any]

    def __call__(self, exported: ExportedCase, folder: Path, stem: str) -> Mapping[str, str]:
        """Write a case's files into a folder, their names beginning with ``stem``.

        Returns:
            File name by what it holds: a method, ``regions``, or ``description``.
        """
        ...


WRITERS: Mapping[
    FormatName, Callable[[AnalysisFolder, Sequence[Case], Sequence[str]], CaseWriter]
] = {"dicom": DicomWriter, "nifti": NiftiWriter, "png": OverlayWriter}
"""Per format what makes its writer from an analysis, cases and methods.

What it cannot write it refuses then, before anything is read.
"""


def export_analysis(
    folder: AnalysisFolder,
    cohort: Cohort,
    out: Path,
    file_format: FormatName,
    *,
    methods: Sequence[str] | None = None,
    case_ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the maps and regions of attributed cases for other tools, whole or not at all.

    Args:
        folder: an analysis with attributions.
        cohort: the cases of its data set, with region maps where they have any.
        out: folder to make; it must not exist.
        file_format: a name in ``WRITERS``.
        methods: names of attribution methods; None takes all that were computed.
        case_ids: ids; None takes all that were attributed.
        progress: called with (cases done, cases in all).

    Returns:
        What ``export.json`` in the folder holds: the format, the network, the unit of each method,
        and per case its files and, per method whose values add up, the map's sum and how much of
        it lies in the padding, where no source pixel is.

    Raises:
        ConfigError: a method or case that was not attributed, or a package that is not installed.
        DataError: ``out`` exists, or a case that cannot be written in this format, or whose
            radiograph or region map is not the one that was attributed.
        ReportError: no attributions in the folder.
    """
    chosen, names = attributed_cases(folder, cohort, methods=methods, case_ids=case_ids)
    write = WRITERS[file_format](folder, [cohort[case_id] for case_id in chosen], names)
    stems = safe_file_names(chosen, [*names, "regions"], reserved=[Path(INDEX_FILE).stem])
    cases: dict[str, Any] = {}
    index: dict[str, Any] = {
        "format": file_format,
        "toolkit_version": __version__,
        "model_id": folder.manifest["run"].get("model_id"),
        "settings": folder.manifest["steps"].get("attribute", {}).get("settings"),
        "units": {name: unit_of(name) for name in names},
        **write.facts,
        "cases": cases,
    }
    with staged_folder(out) as staged:
        read = read_cases(folder, cohort, chosen, names)
        for done, exported in enumerate(read, start=1):
            case_id = exported.case.case_id
            cases[case_id] = {
                "files": dict(write(exported, staged, stems[case_id])),
                "sums": {
                    name: sums_of(name, values, exported.source_map)
                    for name, values in exported.maps.items()
                },
            }
            if progress is not None:
                progress(done, len(chosen))
        write_json(staged / INDEX_FILE, index)
    return index
