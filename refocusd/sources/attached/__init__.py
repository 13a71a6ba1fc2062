"""``python -m refocusd.sources.attached``: the process in which attached sources run.

==========  ========================================================================================
`__main__`  ``python -m refocusd.sources.attached``: the attached sources' process, started by ``refocusd run``
`order`     The parent's order to a new attach process, as one JSON line on its standard input
`process`   The attached sources as children of the daemon: started, kept alive, never waited for
==========  ========================================================================================
"""
