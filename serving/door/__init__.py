"""What clients meet: the gateway with its keys, limits, page and metrics, and the HTTP server under it."""
