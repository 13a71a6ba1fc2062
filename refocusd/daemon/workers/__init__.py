"""The daemon's workers.

============  ==================================================================
`pool`        who is ready, who holds which frame, who hangs
`dispatcher`  frames on their way to the workers, back, and to the writer
`worker`      one worker as the broker sees it
`describe`    a worker as `Status` and the log report it
`processes`   the worker processes, kept alive
============  ==================================================================
"""
