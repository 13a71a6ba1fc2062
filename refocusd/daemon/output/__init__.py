"""The daemon's disk: one thread that owns sinks and ledgers."""
