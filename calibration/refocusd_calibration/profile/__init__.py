"""Writes, shows and compares profiles.

================  ==================================================================================
`compare`         Compares two profiles number by number with limits, to tell whether the microscope drifted
`identity`        Identifies the microscope that was measured, from flags, frames' metadata or the core
`report`          Draws a profile as a picture (PNG) or a self-contained page (HTML)
`report_figures`  Draws the figures of a report into given axes, with one function for each
`rows`            The sections of a profile as rows of name and value
`show_command`    `refocusd calibrate show`, `compare` and `use`: prints a profile, compares two, puts one into use
`write`           Writes profiles: a section is added to the existing ones if its checks pass
================  ==================================================================================
"""
