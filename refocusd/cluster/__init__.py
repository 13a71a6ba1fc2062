"""Whole screens on a cluster: OME-Zarr stores refocused by the workers of Dask.

=============  =====================================================================================
`job`          One position of a screen, refocused by a worker of a cluster
`order`        What a job is told, and what it tells: small, and as MessagePack
`plate_blurs`  The blur that the positions of a plate share, measured once for all jobs
`scheduler`    The clusters that jobs run on: this computer, SLURM, or a scheduler that is there
`screen`       A screen on a cluster: the store first, then a job a position, and the ledger
`slide`        Images too large for memory, refocused in tiles by one blur and one range of counts
`tiles_done`   Which tiles of a large image are written: a job that is killed goes on from there
=============  =====================================================================================

Dask distributes small orders and the ledger's rows; pixels go from disk to disk.

May import everything but `refocusd.cli`, `refocusd.bench` and `refocusd.doctor`.
"""
