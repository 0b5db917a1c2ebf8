"""Coverage-guided fuzzing of the readers: ``python benchmarks/fuzz.py table --seconds 600``.

Needs `boneage-xai[fuzz]` (atheris). It begins with the sound files of `tests/corpus` and stops at
the first input that is neither read nor refused by an error of the toolkit; atheris writes it to
`crash-…` in the working folder, and it belongs into `tests/corpus` with its remedy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

from boneage_xai.errors import BoneAgeError

sys.path.insert(0, str(Path(__file__).parents[1]))

Reader = Callable[[Path, bytes], object]
KINDS = ("table", "workbook", "image", "dicom", "folder")


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _folder(path: Path, content: bytes) -> Path:
    """Write a run or an analysis: a manifest, and a second file behind the first NUL byte."""
    path.mkdir(exist_ok=True)
    manifest, _, second = content.partition(b"\0")
    for name in ("run.json", "analysis.json"):
        (path / name).write_bytes(manifest)
    for name in ("model.safetensors", "predictions.parquet", "metrics.json"):
        (path / name).write_bytes(second)
    return path


def _reader(kind: str) -> Reader:
    """Import what reads this kind, for atheris to see which branches it takes."""
    package = {"workbook": "openpyxl", "image": "PIL", "dicom": "pydicom"}.get(kind)
    with atheris.instrument_imports(include=["boneage_xai", *([package] if package else [])]):
        if kind == "folder":
            from boneage_xai.models.checkpoint import load_run
            from boneage_xai.store import AnalysisFolder

            def read_folder(path: Path, content: bytes) -> object:
                folder = _folder(path, content)
                try:
                    return load_run(folder)
                except BoneAgeError:
                    return AnalysisFolder.open(folder).predictions()

            return read_folder
        if kind in ("table", "workbook"):
            from boneage_xai.data.tables import read_label_table

            suffix = ".csv" if kind == "table" else ".xlsx"
            return lambda path, content: read_label_table(_file(path.with_suffix(suffix), content))
        from boneage_xai.data.radiograph import decode_radiograph, read_radiograph

        if kind == "image":
            return lambda _, content: decode_radiograph(content)
        return lambda path, content: read_radiograph(_file(path.with_suffix(".dcm"), content))


def _seeds(kind: str) -> Iterator[bytes]:
    from tests.corpus.dicoms import dicom_items
    from tests.corpus.pictures import picture_items
    from tests.corpus.tables import table_items
    from tests.corpus.workbooks import workbook_items

    if kind == "folder":
        yield from (b"{}", b'{"format": 1, "version": 1}\0{}')
        return
    items = {
        "table": table_items,
        "workbook": workbook_items,
        "image": picture_items,
        "dicom": dicom_items,
    }[kind]
    for item in items():
        damaged = "truncated" in item.family or "bit-flipped" in item.family
        if not damaged and "bomb" not in item.family and len(item.content) < 50_000:
            yield item.content


def main() -> None:
    """Fuzz one reader for a while."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seconds", type=int, default=600)
    chosen = parser.parse_args()
    read = _reader(chosen.kind)
    home = Path(tempfile.mkdtemp(prefix="fuzz-"))
    seeds = home / "seeds"
    seeds.mkdir()
    for number, content in enumerate(_seeds(chosen.kind)):
        (seeds / str(number)).write_bytes(content)

    def once(content: bytes) -> None:
        try:
            read(home / "input", content)
        except BoneAgeError:
            return

    options = [f"-max_total_time={chosen.seconds}", "-timeout=20", "-rss_limit_mb=2500"]
    atheris.Setup([sys.argv[0], *options, "-max_len=50000", str(seeds)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
