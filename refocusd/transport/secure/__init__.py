"""The daemon's sockets, and who may use them.

=================  =================================================================================
`authenticator`    Decides which keys may connect: answers ZeroMQ's questions in a thread
`endpoints`        The daemon's sockets: a local endpoint, and one for workers on other hosts
`keys`             Who may connect from another host: key pairs (CURVE) and the allow-list
`link`             The peer's end of a link: options of its socket, its keys, and what became of it
`local_endpoint`   The daemon's local endpoint: ZeroMQ on loopback, for processes of this computer
`private_file`     Small files that only their user may read: written whole or not at all, never overwritten
`relay`            Accepts connections from other hosts, and forwards their bytes to ZeroMQ
`remote_endpoint`  The daemon's endpoint for workers on other hosts: a relay in front of ZeroMQ on loopback
`user_keys`        Proof that two processes of one computer belong to the same user
=================  =================================================================================
"""
