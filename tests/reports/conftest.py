"""The analysis folder that reports and dashboard are tested on."""

from __future__ import annotations

from analysis_fixture import analysis_folder, analysis_template

__all__ = ["analysis_folder", "analysis_template"]
