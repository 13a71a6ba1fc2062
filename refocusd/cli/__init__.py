"""The command line: one module a sub-command in `commands`, each with `register`.

===============  ===================================================================================
`console`        What a person sees: results on standard output, progress and remarks on standard error
`figures`        The tables of `replay` and `demo`: what a run came to, and its quality where the truth is known
`flags`          What the commands' parsers share: their form, and the flags that set `refocusd.config.Settings`
`logs`           The log: lines on standard error, and a rotating file in the user's log folder
`main`           ``refocusd``: parses, runs a sub-command, turns errors into one line and a status
`model_summary`  Summaries of a model bundle: a row of the list, lines of text, JSON
`offline`        What `process` and `resume` show: progress, and what was done
`on_cluster`     ``refocusd process --cluster``: OME-Zarr stores, refocused by the workers of a cluster
`print_pdf`      An HTML page printed to PDF by a browser that is installed
`report_page`    The page of `refocusd report`: one HTML file with its pictures and figures inside
`runs`           Which output a run of frames on disk goes to: a new one, or one that is there
`commands/`      One sub-command a file; each adds itself to the parser with `register`
===============  ===================================================================================

May import everything in `refocusd`.  `refocusd_training` and
`refocusd_calibration` add their sub-commands by entry point.
"""
