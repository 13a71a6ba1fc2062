"""The daemon's sockets, and who may use them.

===============  ==================================================================
`endpoints`      the daemon's ROUTER sockets: local, and for workers on other hosts
`relay`          before ZeroMQ: limits and ends connections from other hosts
`authenticator`  answers ZeroMQ whether a key is good
`keys`           key pairs (CURVE), the key store and its allow-list
`private_file`   small files that only their user can read
`link`           a peer's end: options of its socket, and what became of it
===============  ==================================================================
"""
