"""The daemon's side of the workers.

============  ======================================================================================
`describe`    Describes a worker for `Status` and the log
`dispatcher`  Sends frames to workers and their results to the writer; handles workers that are lost or hang
`pool`        The broker's records of its workers: which are ready, and which frames they hold
`processes`   Runs the worker processes of a daemon, each with a supervisor
`worker`      The broker's record of one worker
============  ======================================================================================
"""
