"""Clients for one cluster, for asyncio, and for several clusters."""
