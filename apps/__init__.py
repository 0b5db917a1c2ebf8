"""The front doors: the command line and the dashboard."""

import os

# Before torch is loaded. Its idle threads otherwise spin for so long that on a machine which others
# use, too, they compute a thirtieth of what they could; asleep at once, they wake too late.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
