"""Measures engines: speed, memory and quality, against what the machine can do."""
