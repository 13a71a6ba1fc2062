"""A bundle trained on, on a lab's own frames, and refused where that made it worse."""
