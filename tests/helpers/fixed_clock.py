"""Give a notebook's kernel a fixed clock: it runs this file first if `PYTHONSTARTUP` names it.

The story of a simulated cluster ends at the present. If it began the day before, its times have dates.
"""

import time_machine

time_machine.travel("2026-11-24T16:10:00+00:00").start()  # from then on it runs as usual
