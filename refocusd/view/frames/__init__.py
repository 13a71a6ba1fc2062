"""Frames for those who look: read from datasets, encoded for the page, saved as a file."""
