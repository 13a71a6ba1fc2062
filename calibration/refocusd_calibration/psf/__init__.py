"""The point spread function against defocus, from beads or matched planes."""
