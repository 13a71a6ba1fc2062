"""The daemon's sockets, and who may use them.

=================  =================================================================================
`authenticator`    Decides which keys may connect, by answering ZeroMQ's requests in a thread
`endpoints`        The daemon's sockets: a local endpoint, and one for workers on other hosts
`keys`             Key pairs (CURVE) and the allow-list, which determine who may connect from another host
`link`             The peer's end of a link: the options of its socket, its keys, and its state
`local_endpoint`   The daemon's local endpoint: ZeroMQ on loopback, for processes of this computer
`private_file`     Small files that only their user may read; they are written whole or not at all, and never overwritten
`relay`            Accepts connections from other hosts, and forwards their bytes to ZeroMQ
`remote_endpoint`  The daemon's endpoint for workers on other hosts: a relay in front of ZeroMQ on loopback
`user_keys`        Proof that two processes of one computer belong to the same user
=================  =================================================================================
"""
