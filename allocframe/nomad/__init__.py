"""Nomad's HTTP API: connections, requests, paging, event streams and exec.

No other package imports httpx or websockets.
"""
