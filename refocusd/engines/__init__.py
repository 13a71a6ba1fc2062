"""Model bundles, and what runs them.

=============  ================================================================
`engine`       the Protocol that every backend implements, and what it returns
`bundle`       a portable model folder, checked file by file before it is used
`normalise`    offset and scale of a whole frame
`verdict`      what is said of a refocused frame
`openvino`     the embedded CPU engine (the default)
`identity`     returns frames as they are: measures the path without a network
`choose`       picks and builds the engine that the settings ask for
`models/`      the bundles that are shipped
=============  ================================================================

May import `errors`, `frame`, `config`, `quality`.  Nothing in a bundle is ever
executed; engines are built from it on the machine that runs them.
"""
