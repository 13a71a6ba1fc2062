"""OME-Zarr of any writer: images, plates and collections, finished or growing.

=============  =====================================================================================
`chunks`       Which frames of a Zarr array are stored: a chunk without a file reads as its fill value
`frame_notes`  What the writers of OME-Zarr note of an image and its frames, under Micro-Manager's names
`grid`         Which frames of the images of a store there are: a byte or a number for each, not an object
`groups`       What the groups of an OME-Zarr store say, whoever wrote it: images, plates, collections
`image`        One image of an OME-Zarr store: which frames it has, and where they lie in its arrays
`reader`       OME-Zarr of any writer as a dataset: images, plates and collections, finished or growing
=============  =====================================================================================
"""
