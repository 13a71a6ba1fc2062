"""The microscope that is measured on: its moves, planned, checked and run."""
