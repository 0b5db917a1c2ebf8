"""What a machine has and lacks for this toolkit."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from boneage_xai.data.cache import default_cache_folder
from boneage_xai.data.decoding import usable_cores
from boneage_xai.models.checkpoint import library_versions
from boneage_xai.models.precision import computes_bfloat16_fast


@dataclass(frozen=True)
class Finding:
    """One thing looked at, what was found, and what follows for the user."""

    what: str
    found: str
    follows: str


def findings() -> list[Finding]:
    """Look at processor, accelerator, precision, memory, cache, optional parts and weights."""
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "none"
    fast = computes_bfloat16_fast()
    cache = default_cache_folder()
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_gb = shutil.disk_usage(nearest).free / 1e9
    weights = Path(torch.hub.get_dir()) / "checkpoints"
    n_weights = len(list(weights.glob("*.pth"))) if weights.is_dir() else 0
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    return [
        Finding(
            "system",
            f"{platform.system()} {platform.machine()}",
            "tested on Linux" if platform.system() == "Linux" else "not tested on this system",
        ),
        Finding("versions", versions, "recorded in every run"),
        Finding("processor cores", str(usable_cores()), "decoding and training use all of them"),
        Finding(
            "GPU", device, "training uses it" if cuda else "training runs on the CPU: use cpu-small"
        ),
        Finding(
            "fast bfloat16",
            "yes" if fast else "no",
            "training uses bfloat16" if fast else "training uses float32",
        ),
        Finding(
            "pixel cache",
            f"{cache}, {free_gb:.0f} GB free",
            "1 GB holds about 60,000 radiographs at 128 pixels; set BONEAGE_XAI_CACHE to move it",
        ),
        Finding(
            "ImageNet weights",
            f"{n_weights} files in {weights}",
            "the wouters recipes look there first, then download: offline, put the files there",
        ),
    ]
