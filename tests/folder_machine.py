"""Folders under any sequence of commands, kills, damage and moves, beside a plain model of them.

The model knows what each folder was told to hold. Whatever happens to it, what was committed is
read unchanged or refused in one sentence, nothing half written is read, and a repeated command
changes nothing. Text (JSON, CSV) has no checksum: a flipped bit may leave another readable text.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from boneage_xai.errors import BoneAgeError

FEW = settings(
    max_examples=12,
    stateful_step_count=14,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    # Each step runs real commands: to shrink a failure would take longer than to read it.
    phases=[Phase.generate],
)
KINDS = st.sampled_from(["flip", "cut", "delete"])
PLACE = st.floats(0, 1, exclude_max=True)
Served = Mapping[str, Any]
ABSENT = "absent"


class Refused(str):
    """What a reader said instead of serving something."""


@dataclass(eq=False)
class Folder:
    """What the model knows of a folder.

    Args:
        path: where it lies.
        holds: name of what is read to the value that was committed.
        damaged: files below it, with how they were damaged.
        unfinished: a command was stopped in it.
    """

    path: Path
    holds: dict[str, Any] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    unfinished: bool = False

    def moved(self, path: Path) -> Folder:
        return replace(self, path=path, holds=dict(self.holds), damaged=dict(self.damaged))

    def mend(self, *starts: str) -> None:
        """Forget damage to files that were written anew."""
        self.damaged = {n: k for n, k in self.damaged.items() if not n.startswith(starts)}

    def touches(self, starts: tuple[str, ...]) -> dict[str, str]:
        return {n: k for n, k in self.damaged.items() if n.startswith(starts)}


def tried(read: Callable[[], Any]) -> Any:
    """Return what is read, or the one sentence that refuses it; any other error is a failure."""
    try:
        found = read()
        return ABSENT if found is None else found
    except BoneAgeError as error:
        said = Refused(error)
    assert "\n" not in said
    return said


def damage(file: Path, kind: str, place: float) -> None:
    whole = file.read_bytes()
    at = int(place * len(whole))
    if kind == "delete":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(whole[:at])
    else:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])


def check(folder: Folder, found: Served, files: Mapping[str, tuple[str, ...]]) -> None:
    """Compare what a folder serves with what the model knows of it."""
    for name, value in found.items():
        hurt = folder.touches(files[name])
        expected = folder.holds.get(name, ABSENT)
        if not hurt:
            assert value == expected, (folder, name)
        elif isinstance(value, Refused):
            assert any(Path(file).parts[0] in value for file in hurt), (hurt, value)
        elif value == ABSENT:
            assert "delete" in hurt.values(), (hurt, name)
        elif not any(file.endswith((".json", ".csv")) for file in hurt):
            assert value == expected, (hurt, name)


def state_of(path: Path) -> list[tuple[Any, ...]]:
    """Return what changes when a file below a path is written, replaced, moved or removed."""
    found = ((file, file.lstat()) for file in sorted(path.rglob("*")))
    return [(file, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for file, at in found]


def csv_of(table: pd.DataFrame | None) -> str | None:
    """Return a table without the times that it notes."""
    return None if table is None else table.drop(columns="seconds", errors="ignore").to_csv()


class FolderMachine(RuleBasedStateMachine):
    """What both kinds of folders have in common."""

    folders = Bundle("folders")

    def __init__(self, root: Path) -> None:
        super().__init__()
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        self.root = root
        self.known: list[Folder] = []
        self.made = 0
        self.read: dict[Path, tuple[list[tuple[Any, ...]], Served]] = {}

    def served(self, folder: Folder, read: Callable[[Path], Served]) -> Served:
        """Read a folder, or return what was read of it if no file below it has changed since."""
        state, (known, found) = state_of(folder.path), self.read.get(folder.path, (None, {}))
        if state != known:
            found = read(folder.path)
            self.read[folder.path] = (state, found)
        return found

    def new(self) -> Path:
        self.made += 1
        return self.root / f"folder-{self.made}"

    def keep(self, folder: Folder) -> Folder:
        self.known.append(folder)
        return folder

    @rule(target=folders)
    def begin(self) -> Folder:
        return self.keep(Folder(self.new()))

    @rule(target=folders, folder=folders)
    def copy(self, folder: Folder) -> Folder:
        made = folder.moved(self.new())
        if folder.path.exists():
            shutil.copytree(folder.path, made.path)
        return self.keep(made)

    @rule(target=folders, folder=consumes(folders))
    def rename(self, folder: Folder) -> Folder:
        made = folder.moved(self.new())
        if folder.path.exists():
            folder.path.rename(made.path)
        self.known.remove(folder)
        return self.keep(made)

    @rule(folder=folders, place=PLACE)
    def leave_what_a_kill_leaves(self, folder: Folder, place: float) -> None:
        """Half of a file under its temporary name, as ``staged_file`` has it at work."""
        files = [file for file in folder.path.glob("*.*") if file.is_file()]
        if files:
            file = files[int(place * len(files))]
            litter = file.with_name(f".{file.stem}.abc{file.suffix}")
            litter.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    @rule(folder=folders, kind=KINDS, which=PLACE, place=PLACE)
    def hurt(self, folder: Folder, kind: str, which: float, place: float) -> None:
        files = sorted(
            file
            for file in folder.path.rglob("*")
            if file.is_file()
            and file.stat().st_size
            and not file.name.startswith(".")
            and file.suffix != ".png"
        )
        if files:
            file = files[int(which * len(files))]
            damage(file, kind, place)
            # Two writes in place may be closer than the clock of a file system tells apart.
            self.read.pop(folder.path, None)
            folder.damaged[file.relative_to(folder.path).as_posix()] = kind
