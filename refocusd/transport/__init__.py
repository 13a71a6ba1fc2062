"""How frames travel: messages, the shared ring, and the client side of the wire.

==========  ==================================================================
`messages`  the typed, versioned headers (msgpack) of every message
`ring`      pixels on the same host: shared memory owned by the daemon
`client`    a peer's side: connect, open an acquisition, submit frames
==========  ==================================================================

May import `errors`, `frame`, `config`.  Pixels are never pickled: they are raw
bytes whose shape, type and checksum stand in a header that is validated first.
"""
