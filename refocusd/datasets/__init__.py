"""A raw dataset with its refocused datasets and ledgers: found, reconciled, verified.

===============  ===================================================================================
`dataset`        Finds what belongs to a dataset: its raw frames, refocused frames and ledgers
`identity`       Recognises a recording by its content, whatever its name and wherever it is
`judged`         Frames by verdict, from the ledger beside refocused frames: those to look at, or to image again
`output`         One run's refocused dataset on disk: what the files beside its frames say, and whether it is being written
`output_ledger`  The ledger of refocused frames: the local one, or the copy beside them
`reconcile`      Compares raw frames, ledger and refocused frames
`run_figures`    Figures of a run: counts, rate and latencies, from the ledgers beside refocused datasets
`run_folder`     Names of a refocused dataset and of refocusd's own files in it
`run_settings`   The settings to finish a run with; those that determine the pixels are the run's own
`verify`         Reads one run of a dataset from disk and reconciles it; changes nothing
===============  ===================================================================================
"""
