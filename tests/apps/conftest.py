"""The analysis folder that reports and dashboard are tested on."""

from __future__ import annotations

import runpy
from pathlib import Path

# Tests are not a package: the shared fixtures are run, not imported.
_shared = runpy.run_path(str(Path(__file__).parents[1] / "analysis_fixture.py"))
analysis_template = _shared["analysis_template"]
analysis_folder = _shared["analysis_folder"]
