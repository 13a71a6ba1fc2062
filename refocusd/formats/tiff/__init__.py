"""TIFF, OME-TIFF, ImageJ and Micro-Manager's image stacks."""
