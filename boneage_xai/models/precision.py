"""What a device computes fast."""

from __future__ import annotations

from typing import Any

import torch


def computes_bfloat16_fast(device: torch.device | None = None) -> bool:
    """Return whether a device has bfloat16 units (a GPU's, AMX or AVX512-BF16).

    Args:
        device: the device; None is a GPU where there is one, else the processor.
    """
    cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
    if cuda:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
