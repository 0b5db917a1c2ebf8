"""Streamlit that notes how long each run of a script takes: ``timed_streamlit.py LOG run PAGE``.

A line a run: when it began (seconds of the system's monotonic clock), its wall seconds and the
processor seconds of its thread.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from streamlit.runtime.scriptrunner.script_runner import ScriptRunner
from streamlit.web.cli import main

if __name__ == "__main__":
    log = open(sys.argv.pop(1), "a", encoding="utf-8", buffering=1)  # noqa: SIM115
    run_script = ScriptRunner._run_script

    def timed(runner: ScriptRunner, *arguments: Any) -> None:
        began, began_cpu = time.monotonic(), time.thread_time()
        try:
            run_script(runner, *arguments)
        finally:
            wall, cpu = time.monotonic() - began, time.thread_time() - began_cpu
            log.write(f"{began:.3f} {wall:.4f} {cpu:.4f}\n")

    ScriptRunner._run_script = timed  # type: ignore[method-assign]
    main(prog_name="streamlit")
