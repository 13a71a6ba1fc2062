"""Model bundles: described, checked, installed, found.  Nothing in one is ever executed.

===================  ===============================================================================
`archive`            A model as it arrives: a folder or a zip, copied into an empty folder with bounds
`bioimageio`         Takes in a bioimage.io model that somebody else made
`bioimageio_rdf`     What refocusd needs to know of a bioimage.io model that somebody else made
`bundle`             Model bundles: a folder that is also a bioimage.io model (format 0.5)
`description`        What a bundle says of itself: ``config.refocusd``, read with bounds on everything
`install`            Adds models to the user's folder, and removes them: whole, or not at all
`library`            Where model bundles are found: those shipped with refocusd, then the user's own
`onnx_guard`         An ONNX file must hold its weights itself: looked at before any runtime opens it
`receptive_field`    How far a network looks, measured: the halo that tiles need
`reference_network`  A network by itself, in float32 on the CPU: what every engine of it is held against
`tensors`            A bundle's tensors (``.npy``): looked at before they are loaded
===================  ===============================================================================
"""
