"""What a machine has and lacks for this toolkit."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from boneage_xai.data.cache import default_cache_folder
from boneage_xai.models.checkpoint import library_versions
from trainers.engine import computes_bfloat16_fast


@dataclass(frozen=True)
class Finding:
    """One thing looked at, what was found, and what follows for the user."""

    what: str
    found: str
    follows: str


def findings() -> list[Finding]:
    """Look at processor, accelerator, precision, memory, cache, optional parts and weights."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
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
        Finding("system", f"{platform.system()} {platform.machine()}", "supported"),
        Finding("versions", versions, "recorded in every run"),
        Finding("processor cores", str(cores), "decoding and training use all of them"),
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
            "the wouters recipes find them there, or download them when there is a network",
        ),
        Finding(
            "PDF reports",
            "yes" if importlib.util.find_spec("weasyprint") else "no",
            "HTML reports print well from any browser",
        ),
    ]
