"""The daemon's workers.

============  ======================================================================================
`describe`    A worker as `Status` and the log report it
`dispatcher`  Frames on their way to the workers, back, and to the writer; workers that are lost or hang
`pool`        The workers as the broker sees them: who is ready, who holds which frame
`processes`   The worker processes of a daemon: one supervisor each
`worker`      One worker, as the broker sees it
============  ======================================================================================
"""
