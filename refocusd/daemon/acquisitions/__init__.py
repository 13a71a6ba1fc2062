"""One acquisition in the daemon: opened, scheduled, caught up, closed, described."""
