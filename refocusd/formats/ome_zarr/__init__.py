"""OME-Zarr 0.5: written frame by frame in any order."""
