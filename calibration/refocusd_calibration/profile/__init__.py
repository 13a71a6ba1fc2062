"""Profiles: written, shown, compared."""
