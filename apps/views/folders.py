"""Which analyses the dashboard can open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from boneage_xai.errors import BoneAgeError, ReportError
from boneage_xai.store import AnalysisFolder

DEMO = Path("demo")
MANIFEST = "analysis.json"

HOW_TO_BEGIN = """
This dashboard shows an **analysis folder**: how well a network reads bone age, and what it
looks at. There is none here yet. Two ways to get one:

**Without any data**, in a few minutes – a network is trained on drawn hands and explained:

```
boneage-xai demo --out demo
boneage-xai dashboard demo
```

**With your own radiographs** and a trained run:

```
boneage-xai evaluate RUN --data SOURCE --out DIR
boneage-xai attribute RUN --data SOURCE --out DIR
boneage-xai dashboard DIR
```
"""


def open_each(analyses: Mapping[str, Path]) -> tuple[dict[str, AnalysisFolder], list[str]]:
    """Open several analyses.

    Args:
        analyses: name to folder.

    Returns:
        Those that can be read, by name, and a sentence for each that cannot.
    """
    opened: dict[str, AnalysisFolder] = {}
    problems: list[str] = []
    for name, path in analyses.items():
        try:
            opened[name] = AnalysisFolder.open(path)
        except BoneAgeError as error:
            problems.append(str(error))
    return opened, problems


def find_analyses(folder: Path) -> dict[str, Path]:
    """Find the analyses in a folder.

    Args:
        folder: an analysis folder, or one that holds several.

    Returns:
        Name to analysis folder, by name.

    Raises:
        ReportError: no such folder, or no analysis in it.
    """
    if not folder.is_dir():
        raise ReportError(
            f"{folder}: expected an analysis folder or a folder of several, found "
            + ("a file" if folder.exists() else "nothing there")
        )
    if (folder / MANIFEST).is_file():
        return {folder.resolve().name: folder}
    found = sorted(file.parent for file in folder.glob(f"*/{MANIFEST}"))
    if not found:
        raise ReportError(
            f"{folder}: expected an analysis folder or a folder of several, "
            f"found no {MANIFEST} in it or one level below"
        )
    return {path.name: path for path in found}
