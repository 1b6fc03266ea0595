"""Methods and paths as clients of REST may send them, most of them nearly right."""

from __future__ import annotations

from hypothesis import strategies as st

METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "get")
PIECES = (
    "/v1",
    "/V1",
    "/models",
    "/Models",
    "/",
    "//",
    "/m",
    "/a%2Fb",
    "/%41",
    "/versions",
    "/versions/3",
    "/VERSIONS/007",
    "/versions/9223372036854775807",
    "/versions/9223372036854775808",
    "/labels",
    "/labels/x",
    "/Labels/%C3%A9",
    "/metadata",
    "/METADATA",
    ":predict",
    ":classify",
    ":regress",
    ":Predict",
    ":",
    "%",
    "%zz",
    "%ff",
    "%00",
    "é",
    "\udcff",
    "+",
    " ",
)


def requests() -> st.SearchStrategy[tuple[str, str]]:
    """(method, path). A byte that is not UTF-8 is a surrogate, as in file names."""
    tail = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
    start = st.sampled_from(["/v1/models", "/v1/models/m", "/V1/MODELS/m", "/v1", ""])
    return st.tuples(st.sampled_from(METHODS), st.builds(str.__add__, start, tail))
