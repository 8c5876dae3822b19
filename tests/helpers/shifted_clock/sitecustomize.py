"""Shift the clock of every Python process that has this folder on PYTHONPATH, by CLOCK_OFFSET seconds.

Only Python's clock is shifted: libfaketime 0.9.10 breaks waits on the monotonic clock, such as `time.sleep`
and the timeouts of locks.
"""

import contextlib
import os
import time

if "CLOCK_OFFSET" in os.environ:
    with contextlib.suppress(ImportError):  # an environment that a test made for itself
        import time_machine

        time_machine.travel(time.time() + float(os.environ["CLOCK_OFFSET"])).start()
