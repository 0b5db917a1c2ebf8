"""The analysis that exports are tested on."""

from __future__ import annotations

from analysis_fixture import analysis_folder, analysis_template
from export_fixture import explained

__all__ = ["analysis_folder", "analysis_template", "explained"]
