"""What the toolkit wrote and reads again, damaged or forged: JSON, tables, maps and manifests."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from .items import Item, Refused, Something, damaged

SHAPE = (2, 24, 16)
"""Of the maps: two cases. Behind the metadata of an item lies one sound chunk."""


def chunk() -> bytes:
    """Return the chunk of the first case, as it lies on disk without codecs."""
    return np.linspace(-1, 1, SHAPE[1] * SHAPE[2], dtype="<f4").tobytes()


def array_metadata(**changes: Any) -> dict[str, Any]:
    """Return the metadata of an array of maps."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(SHAPE),
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *SHAPE[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {"written_rows": [0]},
        **changes,
    }


def run_manifest(**architecture: Any) -> dict[str, Any]:
    """Return the manifest of a run."""
    return {
        "format": "boneage_xai.run",
        "version": 1,
        "recipe_name": "demo",
        "recipe": {},
        "architecture": {"backbone": "squeezenet1_1", "hidden": [32], **architecture},
        "preprocessing": {"size_px": 48},
        "age_mean_months": 120.0,
        "age_sd_months": 40.0,
        "seed": 0,
        "data": {
            "cohort": "phantoms",
            "source": "phantoms",
            "fingerprint": "0",
            "n_train": 8,
            "n_validation": 2,
        },
        "baselines": {},
        "epochs": 1,
        "best_epoch": 0,
        "val_mae_months": 30.0,
        "weights_sha256": "0" * 64,
        "versions": {},
    }


def stored_items() -> Iterator[Item]:
    """Yield every file that the toolkit would have written itself."""
    yield from _json()
    yield from _tables()
    yield from _maps()
    yield from _manifests()


def _json() -> Iterator[Item]:
    sound = json.dumps({"overall": {"mae_months": {"value": 7.5, "low": 7.0, "high": 8.0}}})
    yield Item("stored JSON", "sound.json", sound.encode(), Something())
    for name, content in (
        ("empty", b""),
        ("nested", b"[" * 40_000),
        ("many-digits", b'{"n": ' + b"9" * 5_000 + b"}"),
        ("control-character", b'{"a": "\x01"}'),
        ("latin1", '{"a": "ä"}'.encode("latin-1")),
    ):
        yield Item("stored JSON", f"{name}.json", content, refusal=Refused("expected JSON"))
    yield from damaged("stored JSON", "metrics", ".json", sound.encode(), Something())


def _tables() -> Iterator[Item]:
    frame = pd.DataFrame({"case_id": ["1", "NA", "x"], "error_months": [1.5, -2.0, 3.25]})
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, write_page_checksum=True)
    sound = buffer.getvalue()
    yield Item("stored table", "sound.parquet", sound, Something())
    yield from damaged("stored table", "predictions", ".parquet", sound, Something(), n=60)
    # What pandas notes about the columns is JSON inside of the file.
    for name, old, new in (
        ("index-column", b'"index_columns": []', b'"index_columns": 77'),
        ("no-list", b'"columns": [{', b'"columns": {{ '),
    ):
        content = sound.replace(old, new)
        if len(new) == len(old) and content != sound:
            yield Item("stored table", f"{name}.parquet", content, Something(), Refused())


def _maps() -> Iterator[Item]:
    family = "stored maps"
    sound = json.dumps(array_metadata()).encode()
    yield Item(family, "sound.zarr", sound, Something())
    spoilt: dict[str, bytes] = {
        "control-character": sound.replace(b'"array"', b'"arr\0y"'),
        "nested": b"[" * 40_000,
        "list": b"[]",
        "group": json.dumps({"zarr_format": 3, "node_type": "group"}).encode(),
    }
    for name, changes in {
        "flat": {"shape": [2]},
        "huge": {"shape": [2, 10**9, 10**9]},
        "huge-chunk": {
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 10**6, 10**6]}}
        },
        "negative": {"shape": [-2, 24, 16]},
        "text": {"shape": "many"},
        "type": {"data_type": "float31"},
        "codec": {"codecs": [{"name": "zip"}]},
        "no-codec": {"codecs": []},
        "grid": {"chunk_grid": {"name": "irregular"}},
        "fill": {"fill_value": "much"},
        "other-chunk": {"shape": [2, 48, 16]},
        "object": {"data_type": "string", "fill_value": ""},
    }.items():
        spoilt[name] = json.dumps(array_metadata(**changes)).encode()
    for name, content in spoilt.items():
        yield Item(family, f"{name}.zarr", content, refusal=Refused("expected"))
    yield from damaged(family, "gradient", ".zarr", sound, Something(), n=60)


def _manifests() -> Iterator[Item]:
    family = "run manifest"
    sound = json.dumps(run_manifest()).encode()
    yield Item(family, "sound.run", sound, Something())
    for name, architecture in {
        "wide": {"hidden": [10**12]},
        "wider": {"hidden": [10**30]},
        "deep": {"hidden": [4096] * 5_000},
        "negative": {"hidden": [-1]},
        "sex": {"sex_features": 10**9},
        "code": {"factory": "os:system"},
    }.items():
        content = json.dumps(run_manifest(**architecture)).encode()
        yield Item(family, f"{name}.run", content, refusal=Refused("run.json"))
    yield Item(family, "nested.run", b'{"a":' * 40_000, refusal=Refused("run.json"))
    yield Item(family, "list.run", b"[1]", refusal=Refused("expected a run manifest"))
    yield from damaged(family, "manifest", ".run", sound, Something())
