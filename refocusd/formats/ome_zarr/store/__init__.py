"""OME-Zarr of any writer: images, plates and collections, finished or growing.

=============  =====================================================================================
`chunks`       Which frames of a Zarr array are stored: a chunk without a file reads as its fill value
`frame_notes`  Notes of OME-Zarr writers on an image and its frames, under Micro-Manager's names
`grid`         Which frames of a store's images exist: a byte or a number for each, not an object
`groups`       The groups of an OME-Zarr store of any writer: images, plates, collections
`image`        One image of an OME-Zarr store: which frames it has, and their places in its arrays
`reader`       OME-Zarr of any writer as a dataset: images, plates and collections, finished or growing
=============  =====================================================================================
"""
