"""Folders where datasets appear: followed while they grow, offered when finished.

==============  ====================================================================================
`announcement`  The announcement of a followed dataset, and what the daemon already knows about it
`dataset`       Follows one dataset while it is written, and submits its frames to the daemon
`growth`        How a dataset grows: what is new in it, and whether its writer or its share is gone
`offers`        Finished datasets that were never refocused: the command is offered, nothing is taken
`scanner`       Which datasets lie in a folder, and which of them change
`watcher`       Folders where datasets appear: those that grow are followed, finished ones are offered
==============  ====================================================================================
"""
