"""Profiles: written, shown, compared.

================  ==================================================================================
`compare`         Compares two profiles number by number with limits, to tell whether the microscope drifted
`identity`        Identifies the microscope that was measured, from flags, frames' metadata or the core
`report`          Draws a profile as a picture (PNG) or a self-contained page (HTML)
`report_figures`  The figures of a report, one function each; each draws into given axes
`rows`            Each section of a profile as rows of name and value
`show_command`    `refocusd calibrate show`, `compare` and `use`: what a profile says, how two differ, which counts
`write`           Writes profiles: a section is added to the existing ones if its checks pass
================  ==================================================================================
"""
