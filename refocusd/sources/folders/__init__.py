"""Folders where datasets appear: followed while they grow, offered when finished."""
