"""The daemon's workers: who is ready, who holds which frame, who must be started again."""
