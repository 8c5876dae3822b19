"""Nomad's HTTP API: connection, requests, paging, event streams and exec. Only this package uses httpx and websockets."""
