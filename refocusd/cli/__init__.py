"""The command line: one module a sub-command in `commands`, each with `register`.

===============  ===============================================================
`main`           parses, runs, turns errors into one line and an exit status
`flags`          the form of a command's parser, and the flags that set settings
`console`        what a person sees: results, remarks, progress bars, JSON files
`logs`           the log on standard error and in a rotating file
`figures`        tables: what a run came to, and its quality
`model_summary`  a model bundle as a row, as lines, as JSON
`offline`        what `process` and `resume` show
===============  ===============================================================

May import everything in `refocusd`.  `refocusd_training` and
`refocusd_calibration` add their sub-commands by entry point.
"""
