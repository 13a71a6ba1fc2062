"""The command line; `commands` has one module for each sub-command.

===============  ===================================================================================
`console`        Output for people: results on standard output, progress and remarks on standard error
`figures`        Tables of `replay` and `demo`: the figures of a run, and its quality if the truth is known
`flags`          Parts that the commands' parsers share, such as the flags that set `refocusd.config.Settings`
`html_page`      HTML pages of reports, each one file with its style, pictures and tables; also printed to PDF
`job`            ``python -m refocusd.cli.job COMMAND ...``: a sub-command, for a program that shows its progress
`logs`           Logs to standard error, and to a rotating file in the user's log folder
`main`           ``refocusd``: runs a sub-command, and turns errors into one line and an exit status
`model_summary`  Summaries of a model bundle: a row of the list, lines of text, JSON
`offline`        Shared parts of `process` and `resume`: what to refocus, the progress, and what was done
`on_cluster`     ``refocusd process --cluster``: refocuses OME-Zarr stores with the workers of a cluster
`report_page`    Page of `refocusd report`: one HTML file that contains its pictures and figures
`commands/`      One sub-command per file: its help, its flags, and what it runs (`refocusd.cli.flags.Command`)
`fractal/`       Fractal tasks: Fractal runs them on the images of OME-Zarr plates, in its own jobs
===============  ===================================================================================

May import everything in `refocusd`.  `refocusd_training` and
`refocusd_calibration` add their sub-commands by entry point.
"""
