"""OME-Zarr: ours, written frame by frame in any order, and the stores of any other writer.

=============  =====================================================================================
`contents`     The frames of an OME-Zarr dataset of ours, by its list of frames
`description`  How the images of an OME-Zarr dataset are described while frames come
`documents`    The ``zarr.json`` documents of an OME-Zarr 0.5 dataset, as bytes
`files`        Files of a dataset, put in place whole and removed without a trace
`frame_list`   The list of frames of an OME-Zarr dataset of ours: one line of JSON a frame, appended as they come
`layout`       Files of an OME-Zarr dataset of ours, by path
`reader`       OME-Zarr datasets as `OmeZarrSink` writes them
`writer`       OME-Zarr sink: an image server's format, written frame by frame in any order
`mirror/`      Refocused OME-Zarr with the layout of a raw store, or of the large frames of a TIFF
`store/`       OME-Zarr of any writer: images, plates and collections, finished or growing
=============  =====================================================================================
"""
