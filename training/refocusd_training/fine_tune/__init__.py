"""Trains a bundle further on a lab's own frames, and refuses it if that made it worse."""
