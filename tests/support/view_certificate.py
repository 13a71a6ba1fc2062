"""A certificate for 127.0.0.1 that nobody trusts, valid for a century: for tests of TLS only."""

from __future__ import annotations

from pathlib import Path

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUOjRyHkTiN7hjnfCwgckHqG4wZJ0wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjIxMjg0N1oYDzIxMjYxMDI5
MjEyODQ3WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASdNXUSyU0GyNeBd7sjS1rsSHFOtGeUTk3edzVRy9dfzwtRUsxYwCQS
FGmK7AqQNEvV5z7+ED4QyO0cT0v0UQVCo28wbTAdBgNVHQ4EFgQUjtIPWe2bo5xA
Uhx8pqIpCaL2FPowHwYDVR0jBBgwFoAUjtIPWe2bo5xAUhx8pqIpCaL2FPowDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgGJEs077WBwUTqQ5EdZ5bLCSB9AayCFqrp06JxVPLbNoCIA+o
gznt01/bbrTwBAdNZPyCh5BgBZQWLz99RhKOwmjJ
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEZBsIKQOZGLycrFo
r4mr6ME75dolRhsNCTPaxlt65z+hRANCAASdNXUSyU0GyNeBd7sjS1rsSHFOtGeU
Tk3edzVRy9dfzwtRUsxYwCQSFGmK7AqQNEvV5z7+ED4QyO0cT0v0UQVC
-----END PRIVATE KEY-----
"""


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Write certificate and key; returns their paths."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_text(CERTIFICATE, encoding="ascii")
    key.write_text(KEY, encoding="ascii")
    return certificate, key
