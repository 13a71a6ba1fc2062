"""Folders where datasets appear: followed while they grow, offered when finished.

==============  ================================================================
`watcher`       watches a folder, and starts a thread for each dataset that grows
`scanner`       which datasets lie in a folder, and which of them change
`dataset`       one dataset on its way to the daemon
`growth`        what is new in it, and whether its writer or share is gone
`announcement`  what the daemon is told of a dataset, and what it knows of it
`offers`        the command for datasets that were never refocused
==============  ================================================================
"""
