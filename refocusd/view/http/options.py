"""Options of the view: where it listens, and what other computers need to reach it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from refocusd.config import DEFAULT_VIEW_PORT, Settings
from refocusd.errors import ConfigError
from refocusd.files import read_limited

#: Host names that stand for this computer.
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
#: A shorter token could be guessed.
MIN_TOKEN_CHARS = 16


def read_token(file: Path) -> str:
    """The token in the first line of a file.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    """
    try:
        return read_limited(file, 1 << 16).decode("utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token in {file} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """Settings of the view.

    Parameters
    ----------
    endpoint : str
        Address of the daemon, e.g. ``tcp://127.0.0.1:8751``.
    host, port : str, int
        Where to listen; port 0 takes a free one.
    token : str
        If it is set, pages and programs must send it.  The command line sets one that only
        programs of the same user can know, unless another is given.
    certificate, key : Path or None
        TLS, as PEM files.
    hosts : tuple of str
        Further names under which browsers may ask for the page (checked against
        DNS rebinding), e.g. ``scope-3.lab.example``.
    webhook : str
        URL to which alerts are posted; empty for none.
    webhook_untrusted : float
        An alert is posted if a larger share of an acquisition's last frames is untrusted, 0 to 1.
    without_token : set of str
        Paths that need no token: they change nothing and show no pixels.
    settings : Settings or None
        Settings of the daemon, if it started this view; jobs use them too.

    Raises
    ------
    ConfigError
        For an address beyond loopback without token and TLS, a certificate without a key or the
        reverse, a short token, a port or share out of range, or a webhook that is not a URL.
    """

    endpoint: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_VIEW_PORT
    token: str = ""
    certificate: Path | None = None
    key: Path | None = None
    hosts: tuple[str, ...] = ()
    webhook: str = ""
    webhook_untrusted: float = 0.2
    without_token: frozenset[str] = frozenset({"/health"})
    settings: Settings | None = None

    def __post_init__(self) -> None:
        """Refuse options that are unsafe or cannot work."""
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port {self.port}: it must lie between 0 and 65535")
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise ConfigError(f"webhook {self.webhook!r}: it must begin with http:// or https://")
        if not 0 <= self.webhook_untrusted <= 1:
            raise ConfigError(f"share {self.webhook_untrusted}: it must lie between 0 and 1")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("TLS takes both a certificate and its key (--cert and --key)")
        if self.token and len(self.token) < MIN_TOKEN_CHARS:
            raise ConfigError(
                f"the token has {len(self.token)} characters; use at least {MIN_TOKEN_CHARS}, for "
                'example from: python -c "import secrets; print(secrets.token_urlsafe(24))"'
            )
        if not self.is_loopback and not (self.token and self.certificate):
            raise ConfigError(
                f"the view would listen on {self.host}, where others can reach it: give a token "
                "(--token-file) and TLS (--cert and --key), or forward the port, e.g. with "
                f"`ssh -L {self.port}:127.0.0.1:{self.port} this-computer`"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this computer can reach it."""
        return self.host in LOOPBACK

    @property
    def scheme(self) -> str:
        """``https`` with a certificate."""
        return "https" if self.certificate else "http"

    def tls(self) -> ssl.SSLContext | None:
        """The server's TLS settings; None without a certificate.

        Raises
        ------
        ConfigError
            If the files cannot be read or do not belong together.
        """
        if self.certificate is None or self.key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{self.certificate} and {self.key} are not a certificate and its key ({error}): give "
                "PEM files that belong together"
            ) from error
        return context
