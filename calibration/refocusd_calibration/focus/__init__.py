"""Through-focus response: best focus, tilt, depth of field, backlash, drift."""
