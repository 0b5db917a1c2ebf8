"""Resident memory of this process, and its peak."""

from __future__ import annotations

import resource
import threading
import time
from pathlib import Path

GIBI = 2**30


class PeakMemory:
    """The largest resident memory above that at the start, sampled every five milliseconds."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = resident_bytes()
        self.running = True
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, resident_bytes())
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    @property
    def grown(self) -> int:
        return self.peak - self.start


def resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
