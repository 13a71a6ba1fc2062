"""One sub-command a file; each adds itself to the parser with `register`."""
