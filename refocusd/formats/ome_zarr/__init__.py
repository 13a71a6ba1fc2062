"""OME-Zarr: ours, written frame by frame in any order, and the stores of any other writer.

=============  =====================================================================================
`contents`     The frames of an OME-Zarr dataset that refocusd wrote, by its list of frames
`description`  Describes the images of an OME-Zarr dataset while frames are added
`documents`    The ``zarr.json`` documents of an OME-Zarr 0.5 dataset, as bytes
`files`        Files of a dataset, put in place whole and removed without a trace
`frame_list`   refocusd's list of the frames in an OME-Zarr dataset: one line of JSON per frame, only appended to
`layout`       Files of an OME-Zarr dataset that refocusd writes, by path
`reader`       OME-Zarr datasets as `OmeZarrSink` writes them
`writer`       OME-Zarr sink: an image server's format, written frame by frame in any order
`mirror/`      Refocused OME-Zarr with the layout of a raw store, or of the large frames of a TIFF
`store/`       OME-Zarr of any writer: images, plates and collections, finished or growing
=============  =====================================================================================
"""
