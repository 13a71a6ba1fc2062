"""Refocused OME-Zarr with the layout of a raw store, or of the large frames of a TIFF.

==============  ====================================================================================
`image`         One image of a refocused store with the layout of a raw one: its arrays and its list of frames
`layout`        Files of a refocused OME-Zarr store that has the layout of the raw one
`reader`        Refocused OME-Zarr stores with the layout of a raw one
`slide_layout`  The layout of the OME-Zarr that large frames of a TIFF are refocused into
`writer`        OME-Zarr sink with the layout of a raw store: the same plate, images, names and resolutions
==============  ====================================================================================
"""
