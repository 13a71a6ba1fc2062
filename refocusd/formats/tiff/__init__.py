"""TIFF, OME-TIFF, ImageJ and Micro-Manager's image stacks.

=================  =================================================================================
`arrangement`      Which page of a TIFF is which frame: time, z, channel and position of each
`growing_file`     A TIFF that another process is writing, read directory by directory
`growing_ome`      OME-TIFF while ome-writers, and with it pymmcore-plus, writes it: one file for each position
`micromanager`     Axes of a frame by Micro-Manager's metadata: its own, and the summary of the acquisition
`ome_export`       Export of a dataset to OME-TIFF: one file per position, planes in the order t, c, z
`ome_export_plan`  The plan of an export to OME-TIFF, checked before anything is written
`ome_xml`          Which page of an OME-TIFF is which frame, by its OME-XML
`page`             A frame on disk: its shape and type, and the place of its bytes
`page_layout`      One page of a TIFF: its header, checked against the bytes that are there
`reader`           The frames of one TIFF, OME-TIFF or ImageJ stack
`separate_files`   Micro-Manager's separate image files while they are written: one file per frame, and their metadata
`stacks`           Micro-Manager's image stack files (``*_MMStack_Pos0.ome.tif``), finished or being written
`stk`              MetaMorph stacks: planes that follow the pixels of the first one, described by MetaMorph's own tags
`strict`           A TIFF file read by tifffile, with an error where tifffile would repair it
=================  =================================================================================
"""
