"""Model bundles: described, checked, installed, found.  Nothing in one is ever executed."""
