"""The command line: one module a sub-command in `commands`.

===============  ===================================================================================
`console`        Output for people: results on standard output, progress and remarks on standard error
`figures`        Tables of `replay` and `demo`: the figures of a run, and its quality if the truth is known
`flags`          Parts that the commands' parsers share, such as the flags that set `refocusd.config.Settings`
`html_page`      Pages of reports: one HTML file each, with its style, pictures and tables inside; printed to PDF
`job`            ``python -m refocusd.cli.job COMMAND ...``: a sub-command for a program that shows what it does
`logs`           Logs to standard error, and to a rotating file in the user's log folder
`main`           ``refocusd``: parses, runs a sub-command, turns errors into one line and a status
`model_summary`  Summaries of a model bundle: a row of the list, lines of text, JSON
`offline`        Output of `process` and `resume`: progress, and what was done
`on_cluster`     ``refocusd process --cluster``: refocuses OME-Zarr stores with the workers of a cluster
`report_page`    Page of `refocusd report`: one HTML file that contains its pictures and figures
`commands/`      One sub-command a file: its help, its flags, and what it runs (`refocusd.cli.flags.Command`)
`fractal/`       Tasks of Fractal, which runs them on images of OME-Zarr plates, in jobs of its own
===============  ===================================================================================

May import everything in `refocusd`.  `refocusd_training` and
`refocusd_calibration` add their sub-commands by entry point.
"""
