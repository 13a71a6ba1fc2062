"""The view's HTTP: server, routes, limits, guards, metrics."""
