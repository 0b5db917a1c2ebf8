"""The claim of an attribution: what decides its result, written before its first block."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boneage_xai.attribution.work.job import digest
from boneage_xai.attribution.work.parts import blocks_of
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import read_json, write_durably

FORMAT = "boneage_xai.attribution_work"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Claim:
    """What an unfinished attribution is an attribution of.

    Args:
        identity: everything that decides the result; a resume with something else is refused.
        decisions: what was measured and decided when the work began.
    """

    identity: Mapping[str, Any]
    decisions: Mapping[str, Any]
    digest: str = field(init=False)
    blocks: tuple[range, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Compute the digest and divide the cases into blocks."""
        content = digest({"identity": self.identity, "decisions": self.decisions})
        blocks = blocks_of(len(self.identity["case_ids"]), self.decisions["block"])
        object.__setattr__(self, "digest", content)
        object.__setattr__(self, "blocks", tuple(blocks))

    def members(self, block: int) -> range:
        """Return the positions of a block's cases."""
        return self.blocks[block]

    def case_ids(self, block: int) -> list[str]:
        """Return the ids of a block's cases."""
        ids = self.identity["case_ids"]
        return [ids[index] for index in self.blocks[block]]

    def write(self, path: Path) -> None:
        """Write the claim; from then on the work may be resumed."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "digest": self.digest,
            "identity": self.identity,
            "decisions": self.decisions,
        }
        write_durably(path, json.dumps(content, ensure_ascii=False).encode())

    @classmethod
    def read(cls, path: Path) -> Claim:
        """Read a claim.

        Raises:
            DataError: damaged or of another version.
        """
        content = read_json(path)
        try:
            claim = cls(content["identity"], content["decisions"])
            known = (content["format"], content["version"], content["digest"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(_unusable(path, "damage")) from error
        if known != (FORMAT, VERSION, claim.digest):
            raise DataError(_unusable(path, "damage or another version"))
        return claim

    def check(self, identity: Mapping[str, Any], path: Path) -> None:
        """Refuse to resume with anything else than what was claimed.

        Raises:
            ConfigError: something that decides the result differs.
        """
        for key, (theirs, ours) in _differences(self.identity, identity).items():
            raise ConfigError(
                f"{path}: expected to resume an attribution with {key} {_short(theirs)}, found "
                f"{_short(ours)}; give the same options and data, or begin anew with --replace"
            )


def _unusable(path: Path, found: str) -> str:
    return f"{path}: expected the claim of an attribution, found {found}; begin anew with --replace"


def _differences(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[prefix + key] = (a, b)
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        text = value
    return (
        text
        if len(text) <= 40
        else f"{text[:24]}… ({len(value)} in all)"
        if isinstance(value, list)
        else f"{text[:12]}…"
    )
