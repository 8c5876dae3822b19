"""What a saved notebook shows of a panel: a table of what was done, without scripts."""

from __future__ import annotations

import pandas as pd

from ..._utils.html import table
from ..._utils.text import escaped

_HEADER = ("time (UTC)", "action", "allocation", "instance", "node", "result", "what came of it")


def saved_page(heading: str, log: pd.DataFrame) -> str:
    """Return what a panel did, as HTML."""
    heading = f"<p><b>Control panel</b>: {escaped(heading)}. It works while its kernel runs.</p>"
    if log.empty:
        return f"{heading}<p>Nothing was done.</p>"
    rows = [
        (
            f"{row['time']:%Y-%m-%d %H:%M:%S}", row["action"], str(row["alloc_id"])[:8], row["name"],
            row["node_name"], row["result"],
            row["outcome"] if isinstance(row["outcome"], str) and row["outcome"] else row["message"],
        )
        for row in log.to_dict("records")
    ]  # fmt: skip
    return heading + table(rows, _HEADER)
