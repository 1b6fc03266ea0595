"""The page as a file: what it weighs, and that nothing but itself runs or is loaded in it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

import pytest

from tfsrv.frontends.http_messages import HttpRequest, HttpResponse
from tfsrv.frontends.rest_page import Page, content_security_policy

MOST_BYTES = 40_000


def page(*, has_metrics: bool) -> HttpResponse:
    return asyncio.run(Page(has_metrics=has_metrics)(HttpRequest("GET", "/")))


@pytest.fixture(scope="module")
def response() -> HttpResponse:
    return page(has_metrics=True)


@pytest.fixture(scope="module")
def html(response: HttpResponse) -> str:
    return response.body.decode()


def test_is_small(response: HttpResponse) -> None:
    assert len(response.body) < MOST_BYTES
    assert (response.status, response.content_type) == (200, "text/html; charset=utf-8")


def test_browsers_run_its_script_and_style_and_no_other(response: HttpResponse, html: str) -> None:
    policy = dict(response.headers)["Content-Security-Policy"]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == directives["base-uri"] == "'none'"
    assert directives["connect-src"] == "'self'"
    for tag in ("script", "style"):
        content = html.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives[f"{tag}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in policy


def test_the_policy_is_that_of_the_very_page() -> None:
    with pytest.raises(ValueError, match="unpack"):
        content_security_policy("<script>1</script><script>2</script><style></style>")


def test_loads_nothing_from_elsewhere(html: str) -> None:
    addresses = re.findall(r"""\b(?:src|href|action)="([^"]*)""", html)
    assert {each for each in addresses if not each.startswith(("data:", "#"))} == {
        "openapi.json",
        "metrics",
        "tfsrv/overview",
    }
    outside = re.findall(r"https?://[^\s'\"]+", html)
    assert outside == ["http://www.w3.org/2000/svg"]  # the name of a namespace


def test_links_to_metrics_only_where_there_are_any(html: str) -> None:
    without = page(has_metrics=False).body.decode()
    assert 'href="metrics"' in html
    assert "metrics" not in without.partition("<script>")[0].lower().partition("<body>")[2]
    assert without.partition("<script>")[2] == html.partition("<script>")[2]


def test_makes_no_html_of_what_it_is_told(html: str) -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser"):
        assert way not in html
    assert not re.search(r"\b(eval|Function|setTimeout)\(\s*[\"'`]", html)
    assert not re.search(r"\son\w+=", html.partition("<script>")[0])
