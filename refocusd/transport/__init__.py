"""How frames travel: messages, the shared ring, and the client side of the wire.

==========  ==================================================================
`messages`  the typed, versioned headers (msgpack) of every message
`watching`  those for peers that watch
`records`   what messages say of frames, engines, workers and acquisitions
`ring`      pixels on the same host: shared memory owned by the daemon
`client`    a peer's connection: a socket that has introduced itself
`session`   one acquisition on its way to a daemon, as a state machine
`secure/`   encrypted links to other hosts, and who may use them
==========  ==================================================================

May import `errors`, `frame`, `config`.  Pixels are never pickled: they are raw
bytes whose shape, type and checksum stand in a header that is validated first.
"""
