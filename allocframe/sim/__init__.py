"""A simulated Nomad cluster: seeded stories of what goes wrong, behind a real HTTP server on this machine.

It is independent of the rest of the package, and behaves as servers of version 1.3.1 or 2.0.5 do.
"""

from .scenarios import STORIES, Cause, Truth
from .server import Cluster

__all__ = ["STORIES", "Cause", "Cluster", "Truth"]
