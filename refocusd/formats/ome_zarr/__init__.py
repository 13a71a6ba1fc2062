"""OME-Zarr: ours, written frame by frame in any order, and the stores of any other writer.

===============  ===================================================================================
`chunks`         Which frames of a Zarr array are stored: a chunk without a file reads as its fill value
`contents`       What an OME-Zarr dataset of ours holds, as its list of frames says
`description`    How the images of an OME-Zarr dataset are described while frames come
`documents`      The ``zarr.json`` documents of an OME-Zarr 0.5 dataset, as bytes
`files`          Files of a dataset, put in place whole and removed without a trace
`frame_list`     The list of frames of an OME-Zarr dataset of ours: one line of JSON a frame, appended as they come
`frame_notes`    What the writers of OME-Zarr note of an image and its frames, under Micro-Manager's names
`grid`           Which frames of the images of a store there are: a byte or a number for each, not an object
`groups`         What the groups of an OME-Zarr store say, whoever wrote it: images, plates, collections
`image`          One image of an OME-Zarr store: which frames it has, and where they lie in its arrays
`layout`         What lies where in an OME-Zarr dataset of ours, by path
`mirror_image`   One image of a refocused store with the layout of a raw one: its arrays and its list of frames
`mirror_layout`  What lies where in a refocused OME-Zarr store that has the layout of the raw one
`mirror_reader`  Refocused OME-Zarr stores with the layout of a raw one
`mirror_writer`  OME-Zarr sink with the layout of a raw store: the same plate, images, names and resolutions
`reader`         OME-Zarr datasets as `OmeZarrSink` writes them
`slide_layout`   The layout of the OME-Zarr that large frames of a TIFF are refocused into
`store_reader`   OME-Zarr of any writer as a dataset: images, plates and collections, finished or growing
`writer`         OME-Zarr sink: an image server's format, written frame by frame in any order
===============  ===================================================================================
"""
