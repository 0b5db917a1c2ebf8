"""The notebooks: they run from beginning to end, and are stored as they were run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

NAMES = ["phantom_truth", "explain_your_network"]
LARGEST_BYTES = 600_000


def stored(root: Path, name: str) -> Path:
    return root / "docs" / "notebooks" / f"{name}.ipynb"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(
    root: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package, reason="the extra docs is not installed")
    import nbformat
    from nbclient import NotebookClient

    # Few phantoms and one epoch: whether it runs, not what it finds.
    monkeypatch.setenv("BONEAGE_XAI_NOTEBOOK_PHANTOMS", "16")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(stored(root, name), as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    figures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(figures) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_stored_as_it_was_run(root: Path, name: str) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")
    file = stored(root, name)
    assert file.stat().st_size < LARGEST_BYTES
    notebook = nbformat.read(file, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    texts = [str(output.get("text", "")) for cell in cells for output in cell.outputs]
    assert not [text for text in texts if "Warning" in text or "Traceback" in text]


def test_page_of_a_notebook(hook: Callable[[str], ModuleType], root: Path) -> None:
    text, pictures = hook("notebooks").notebook_page(stored(root, "phantom_truth"))
    assert text.startswith("# Against the truth\n")
    assert "[phantom_truth.ipynb](phantom_truth.ipynb)" in text.split("\n\n")[1]
    assert len(pictures) >= 4
    for name, content in pictures.items():
        assert content.startswith(b"\x89PNG")
        assert f"(phantom_truth_files/{name})" in text
    assert "```text\nvalidation MAE " in text
    assert "<style" not in text
    assert text.count("<table><thead>") == 3
