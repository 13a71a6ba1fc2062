"""Describes, checks, installs and finds model bundles.  Nothing in a bundle is ever executed.

===================  ===============================================================================
`archive`            Copies a model from a folder or a zip into an empty folder, within bounds
`bioimageio`         Adopts a bioimage.io model from elsewhere
`bioimageio_rdf`     Reads the description of a bioimage.io model from elsewhere
`bundle`             Model bundles: folders that are also bioimage.io models (format 0.5)
`description`        Reads a bundle's ``config.refocusd``, with bounds on everything
`install`            Adds models to the user's folder and removes them, completely or not at all
`library`            Finds model bundles: those shipped with refocusd, then the user's own
`onnx_guard`         Refuses ONNX files whose weights are in other files, before any runtime opens them
`reference_network`  Runs a network in float32 on the CPU, as the reference for engines, and measures its receptive field
===================  ===============================================================================
"""
