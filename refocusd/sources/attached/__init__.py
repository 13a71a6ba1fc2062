"""``python -m refocusd.sources.attached``: the process in which attached sources run."""
