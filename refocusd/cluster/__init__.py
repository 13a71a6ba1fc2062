"""Whole screens on a cluster: OME-Zarr stores refocused by the workers of Dask.

=============  =====================================================================================
`job`          One position of a screen, refocused by a worker of a cluster
`jobs`         The jobs of a screen, each of which is started again if its worker is lost
`order`        What a job is given, and what it returns: small, in MessagePack
`plan`         What a screen on a cluster will take, from frames measured on this computer
`plate_blurs`  The blur that the positions of a plate share, measured once for all jobs
`scheduler`    The clusters that jobs run on: this computer, SLURM, or an existing scheduler
`screen`       A screen on a cluster: the output store is created first, then each position is a job, and the ledger records them
`slide`        Images too large for memory, refocused in tiles with one blur and one range of counts
`tiles_done`   The tiles of a large image that are written, so that a killed job continues from there
=============  =====================================================================================

Dask distributes small orders and the ledger's rows; pixels go from disk to disk.

May import everything but `refocusd.cli`, `refocusd.bench` and `refocusd.doctor`.
"""
