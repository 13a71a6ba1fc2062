"""Frames on disk: one folder a format, each with its layout, readers and writer.

================  ==================================================================================
`dataset`         A dataset: frames on disk, finished or growing, raw or refocused
`disk_space`      Disk space: what a dataset needs, what there is, what to say when it ran out
`file_names`      Which frame of a folder each image file is: by its name, or by what Micro-Manager wrote beside it
`image_files`     Datasets that are finished image files: one, or a folder of them
`lock`            One writer a dataset: a lock that ends with the process that holds it
`metadata`        What metadata of frames and acquisitions say: numbers, sizes and times
`open_dataset`    Opening a dataset of any kind
`open_sink`       Starting and continuing a refocused dataset of any kind
`placed_frames`   Datasets whose frames lie uncompressed at known places in TIFF files that may grow
`plates`          Image files of plate readers and of MetaMorph, by their real names
`refocused_name`  How refocused datasets are called, and how they are told from raw ones by their names
`scale`           Sizes and names that Micro-Manager's metadata give to pixels, planes and channels
`sink`            A sink: takes refocused frames, makes a dataset of them, and remembers which it holds
`yokogawa`        What Yokogawa's CellVoyager writes beside the images of a plate: when, where and how each was taken
`ndtiff/`         NDTiff 3.x: Micro-Manager's and pycromanager's format, and the default of our output
`ome_zarr/`       OME-Zarr: ours, written frame by frame in any order, and the stores of any other writer
`tiff/`           TIFF, OME-TIFF, ImageJ and Micro-Manager's image stacks
================  ==================================================================================

Every reader is a `dataset.Dataset`, which `open_dataset.open_dataset` chooses, and every writer a
`sink.Sink`, which `open_sink` chooses.

May import `refocusd.files`, `refocusd.frame`, `refocusd.errors`, and of `refocusd.profiles` what
metadata say of the microscope.
"""
