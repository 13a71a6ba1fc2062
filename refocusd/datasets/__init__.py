"""A raw dataset with its refocused datasets and ledgers: found, reconciled, verified.

==============  ==========================================================
`dataset`       what belongs together: raw frames, outputs, ledgers
`identity`      the id of an acquisition that lies on disk
`run_folder`    names and files of a refocused dataset
`reconcile`     raw, ledger and refocused frames, frame by frame
`verify`        one run, read from disk and reconciled
`run_settings`  the settings with which a run that was begun is finished
`run_figures`   what a run came to: counts, rate, latencies
==============  ==========================================================
"""
