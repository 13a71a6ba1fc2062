"""NDTiff 3.x: Micro-Manager's and pycromanager's format, and the default of our output."""
