"""Frames on disk: one folder a format, each with its layout, readers and writer.

Every reader is a `dataset.Dataset`, which `open_dataset.open_dataset` chooses, and every writer a
`sink.Sink`, which `open_sink` chooses.

May import `refocusd.files`, `refocusd.frame`, `refocusd.errors`, and of `refocusd.profiles` what
metadata say of the microscope.
"""
