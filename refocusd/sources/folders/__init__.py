"""Folders where datasets appear: followed while they grow, offered when finished.

==============  ====================================================================================
`announcement`  What the daemon is told of a followed dataset, and what it says of it already
`dataset`       One dataset on its way to the daemon while it is written
`growth`        How a dataset grows: what is new in it, and whether its writer or its share is gone
`offers`        Finished datasets that were never refocused: the command is offered, nothing is taken
`scanner`       Which datasets lie in a folder, and which of them change
`watcher`       Folders where datasets appear: those that grow are followed, finished ones are offered
==============  ====================================================================================
"""
