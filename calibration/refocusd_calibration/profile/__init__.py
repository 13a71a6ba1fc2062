"""Profiles: written, shown, compared.

================  ==================================================================================
`compare`         Has the microscope drifted?  Two profiles, number by number, against limits
`identity`        Which microscope was measured: from flags, from frames' metadata, or from the core
`report`          A profile as a picture (PNG) or a page (HTML) that needs nothing but itself
`report_figures`  The figures of a report, one function each: drawn into axes that are given
`rows`            Each section of a profile as people read it: rows of name and value
`show_command`    `refocusd calibrate show` and `compare`: what a profile says, and whether two differ
`write`           Writing profiles: one section joins those that are there, and only if its checks pass
================  ==================================================================================
"""
