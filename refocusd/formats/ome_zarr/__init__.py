"""OME-Zarr 0.5: written frame by frame in any order.

=============  =====================================================================================
`contents`     What an OME-Zarr dataset of ours holds, as its list of frames says
`description`  How the images of an OME-Zarr dataset are described while frames come
`documents`    The ``zarr.json`` documents of an OME-Zarr 0.5 dataset, as bytes
`files`        Files of a dataset, put in place whole and removed without a trace
`layout`       What lies where in an OME-Zarr dataset of ours, and the lines of its list of frames
`reader`       OME-Zarr datasets as `OmeZarrSink` writes them
`writer`       OME-Zarr sink: an image server's format, written frame by frame in any order
=============  =====================================================================================
"""
