"""Whole screens on a cluster: OME-Zarr stores refocused by the workers of Dask.

=============  =====================================================================================
`job`          Refocuses one position of a screen, in a worker of a cluster
`jobs`         The jobs of a screen, each of which is started again if its worker is lost
`order`        What a job is given, and what it returns: small, in MessagePack
`plan`         Predicts time and memory of a screen on a cluster, from frames measured on this computer
`plate_blurs`  The blur that the positions of a plate share, measured once for all jobs
`scheduler`    The clusters that jobs run on: this computer, SLURM, or an existing scheduler
`screen`       A screen on a cluster: the output store is created first, then each position is a job, and the ledger records them
`slide`        Refocuses images too large for memory, in tiles with one blur and one range of counts
`tiles_done`   Records which tiles of a large image are written, so that the next job continues if one is killed
=============  =====================================================================================

Dask distributes small orders and returns the ledger's rows; pixels go from disk to disk.

May import everything but `refocusd.cli`, `refocusd.bench` and `refocusd.doctor`.
"""
