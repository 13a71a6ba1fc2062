"""How frames travel: messages, the shared ring, and the client side of the wire.

=============  =====================================================================================
`client`       A peer's end of the wire: a socket that has announced itself to a daemon
`messages`     Every message of the wire, as typed and versioned msgpack headers
`outcome_log`  The last outcomes, numbered; a slow reader learns how many were dropped meanwhile
`records`      Records of frames, engines, workers and acquisitions in messages; plain data
`ring`         The shared ring: one block of memory that the daemon owns and peers attach to
`session`      Uploads an acquisition to a daemon: a state machine that every source drives
`watching`     Messages of peers that monitor the daemon
`secure/`      The daemon's sockets, and who may use them
=============  =====================================================================================

May import `config`, `frame`, `errors` and the other top-level modules of `refocusd`.  Pixels are never
pickled: they are raw bytes whose shape, type and checksum are given in a header, which is validated first.
"""
