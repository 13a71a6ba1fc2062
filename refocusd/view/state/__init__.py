"""What the view knows of the daemon: asked by one thread, read by all requests."""
