"""Profiles: written, shown, compared.

================  ==================================================================================
`compare`         Compares two profiles number by number with limits, to tell whether the microscope drifted
`identity`        Identifies the microscope that was measured, from flags, frames' metadata or the core
`report`          Draws a profile as a picture (PNG) or a self-contained page (HTML)
`report_figures`  The figures of a report, one function each: drawn into axes that are given
`rows`            Each section of a profile as rows of name and value
`show_command`    `refocusd calibrate show`, `compare` and `use`: what a profile says, how two differ, which counts
`write`           Writing profiles: one section joins those that are there, and only if its checks pass
================  ==================================================================================
"""
