"""The analysis that exports are tested on."""

from __future__ import annotations

from export_fixture import explained

__all__ = ["explained"]
