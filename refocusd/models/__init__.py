"""Model bundles: described, checked, installed, found.  Nothing in one is ever executed.

===================  ===============================================================================
`archive`            Copies a model from a folder or a zip into an empty folder, within bounds
`bioimageio`         Adopts a bioimage.io model from elsewhere
`bioimageio_rdf`     Reads the description of a bioimage.io model from elsewhere
`bundle`             Model bundles: a folder that is also a bioimage.io model (format 0.5)
`description`        Reads a bundle's ``config.refocusd``, with bounds on everything
`install`            Adds models to the user's folder and removes them, completely or not at all
`library`            Finds model bundles: those shipped with refocusd, then the user's own
`onnx_guard`         Refuses ONNX files whose weights are in other files, before any runtime opens them
`reference_network`  Runs a network in float32 on the CPU, as the reference for every engine, and measures its receptive field
===================  ===============================================================================
"""
