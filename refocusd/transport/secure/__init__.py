"""Sockets, and who may use them: key pairs (CURVE), allow-list, authenticator."""
