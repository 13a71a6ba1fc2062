"""Frames on disk: one folder per format, each with its layout, readers and writer.

================  ==================================================================================
`dataset`         A dataset: frames on disk, finished or growing, raw or refocused
`disk_space`      Disk space: what a dataset needs, what is free, and the error when it runs out
`file_names`      Which frame each image file of a folder is: by its name, or by Micro-Manager's files beside it
`image_files`     Datasets that are finished image files: one, or a folder of them
`lock`            One writer for each dataset: a lock that ends with the process that holds it
`metadata`        Numbers, sizes and times in the metadata of frames and acquisitions
`open_dataset`    Opening a dataset of any kind
`open_sink`       Starting and continuing a refocused dataset of any kind
`placed_frames`   Datasets whose frames are stored uncompressed at known places in TIFF files that may grow
`plates`          Image files of plate readers and of MetaMorph, by the names that these systems give them
`refocused_name`  How refocused datasets are named, and recognised by their names
`scale`           Sizes of pixels and planes, and names of channels, in Micro-Manager's metadata
`sink`            A sink: writes refocused frames into a dataset, and knows which ones it holds
`yokogawa`        Yokogawa CellVoyager's files beside the images of a plate: when, where and how each was taken
`ndtiff/`         NDTiff 3.x: Micro-Manager's and pycromanager's format, and the default of our output
`ome_zarr/`       OME-Zarr: ours, written frame by frame in any order, and the stores of any other writer
`tiff/`           TIFF, OME-TIFF, ImageJ and Micro-Manager's image stacks
================  ==================================================================================

Every reader is a `dataset.Dataset`, chosen by `open_dataset.open_dataset`, and every writer a
`sink.Sink`, chosen by `open_sink`.

May import `refocusd.files`, `refocusd.frame`, `refocusd.errors`, and
`refocusd.profiles.microscope_metadata`.
"""
