"""Micro-Manager's GUI over its Java bridge: acquisitions, live mode and snaps."""
