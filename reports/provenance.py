"""The report section on how an analysis came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from boneage_xai.store import AnalysisFolder
from reports.blocks import Section, Table
from reports.commands import commands
from reports.wording import split_sentence

MODEL_ID_OF = {
    False: "first digits of the weights' SHA-256",
    True: "first digits of a SHA-256 of weights and model card",
}


def provenance(folder: AnalysisFolder) -> Section:
    """Say how all this came about, and how to make it again."""
    manifest = folder.manifest
    run, source = manifest["run"], manifest["data"]
    learned = dict(run.get("training") or {})
    if isinstance(learned.get("best_epoch"), int):
        learned["best_epoch"] = f"{learned['best_epoch'] + 1} (counted from 1)"
    is_external = bool(run.get("card"))
    rows = [
        ("Toolkit", f"boneage_xai {manifest['toolkit_version']}"),
        ("Model card file" if is_external else "Run", str(run.get("path"))),
        ("Model", f"{run.get('model_id')} ({MODEL_ID_OF[is_external]})"),
        ("Model card" if is_external else "Recipe", str(run.get("recipe"))),
        *_averaged(run),
        ("Architecture", _settings(run.get("architecture"))),
        ("Preprocessing", _settings(run.get("preprocessing"))),
        ("Training", "elsewhere, not recorded" if is_external else _settings(learned)),
        *([("How it is called", _settings(_call(run["card"])))] if is_external else []),
        ("Data", str(source.get("source") or source.get("cohort"))),
        ("Data fingerprint", str(source.get("fingerprint"))),
        ("Cases", split_sentence(folder)),
        ("Versions", _settings(run.get("versions"))),
    ]
    for step, detail in manifest["steps"].items():
        rows.append((f"Step {step}", _settings(detail)))
    steps = [(str(step), command) for step, command in commands(folder).items()]
    blocks = (
        Table("What this report is about.", ("", ""), tuple(rows), words=(0, 1)),
        Table("The commands, in order.", ("Step", "Command"), tuple(steps), words=(0, 1)),
    )
    return Section("provenance", "How this was made", blocks)


def _call(card: Mapping[str, Any]) -> dict[str, Any]:
    return {part: card[part] for part in ("input", "sex", "output") if part in card}


def _settings(settings: Mapping[str, Any] | None) -> str:
    if not settings:
        return "–"
    return "; ".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(_short(value))}"
        for name, value in settings.items()
    )


def _short(value: Any) -> Any:
    """Return a setting with its numbers at six digits, which is enough to read."""
    if isinstance(value, Mapping):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _averaged(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Say which runs an ensemble averages, and over which views."""
    if "members" not in run:
        return []
    members = ", ".join(f"{one['recipe']} ({one['model_id']})" for one in run["members"])
    return [("Average of", members), ("Views", _settings(run["views"]))]
