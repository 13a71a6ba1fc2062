"""Folders where datasets appear: growing ones are followed, finished ones are named in the log.

==============  ====================================================================================
`announcement`  The announcement of a followed dataset, and what the daemon already knows about it
`dataset`       Follows one dataset while it is written, and submits its frames to the daemon
`growth`        The growth of a dataset: its new frames, and whether its writer or its share is gone
`offers`        Finished datasets that were never refocused: the command for them, and their output
`scanner`       Finds the datasets in a folder, and notices when they change
`watcher`       Watches a folder: datasets that grow are followed, finished ones are named in the log
==============  ====================================================================================
"""
