"""`GET /`: the page for people. One file, which asks this server and nobody else."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from tfsrv.frontends.http_messages import HttpRequest, HttpResponse

FILE = "page.html"
METRICS_LINK = b'<a href="metrics">Metrics</a>'


class Page:
    """The handler. What it answers is made once."""

    def __init__(self, *, has_metrics: bool) -> None:
        """`has_metrics`: there is a page to link to, for Prometheus."""
        html = files("tfsrv.frontends").joinpath(FILE).read_bytes()
        if not has_metrics:
            html = html.replace(METRICS_LINK, b"")
        self._response = HttpResponse(
            body=html,
            content_type="text/html; charset=utf-8",
            headers=(
                ("Content-Security-Policy", content_security_policy(html.decode())),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                ("Cache-Control", "no-cache"),
            ),
        )

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer one GET."""
        return self._response


def content_security_policy(html: str) -> str:
    """What a browser may do for that page: run its own script and style, and ask this server.

    By their hashes, so that nothing that got into the page otherwise would run.
    https://www.w3.org/TR/CSP3/#grammardef-hash-source
    """
    sources = {
        "default-src": "'none'",
        "script-src": _hash(html, "script"),
        "style-src": _hash(html, "style"),
        "img-src": "data:",  # its icon
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{directive} {source}" for directive, source in sources.items())


def _hash(html: str, tag: str) -> str:
    """The hash of what stands in the one element of that name."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
