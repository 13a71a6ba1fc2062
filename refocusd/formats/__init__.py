"""Frames on disk: one folder a format, each with its layout, reader, growing reader and writer.

May import `refocusd.frame`, `refocusd.errors` and what lies below.
"""
