"""NDTiff 3.x: Micro-Manager's and pycromanager's format, and the default of our output.

========  ==========================================================================================
`index`   The index of an NDTiff dataset, which may grow while it is read
`layout`  The bytes of NDTiff 3.x: file header, TIFF directory (IFD), index record
`reader`  NDTiff datasets by their index: finished, being written now, or left behind by a killed process
`stack`   One TIFF of an NDTiff dataset, to which frames are appended
`writer`  NDTiff sink: appends to what exists, in any order, safe from a killed process
========  ==========================================================================================
"""
