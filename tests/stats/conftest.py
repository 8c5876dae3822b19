"""What the tests of statistics share: other people's functions to compare with."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def reference() -> Any:
    """scipy.stats. To import it takes most of a second, so only the workers that use it do."""
    from scipy import stats

    return stats
