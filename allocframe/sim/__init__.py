"""A simulated Nomad cluster: repeatable incidents behind a real HTTP server on this machine.

It behaves like Nomad 1.3.1 or 2.0.5, and imports nothing else of allocframe.
"""

from .scenarios import STORIES, Cause, Truth
from .server import Cluster

__all__ = ["STORIES", "Cause", "Cluster", "Truth"]
