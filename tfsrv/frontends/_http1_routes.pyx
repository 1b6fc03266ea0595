"""Which method answers which HTTP request."""

from tfsrv._rest_call cimport REST_PREDICT
from tfsrv.frontends._http1_head cimport VERB_POST


cdef class HttpRoutes:
    """No routes: every request is the HttpHandler's. Subclasses find native methods."""

    cdef Method find(self, const HttpHead* head, Call* call):
        return None

    cdef bytes allow(self, const HttpHead* head):
        return b"GET, HEAD, POST, OPTIONS"


cdef class PathRoutes(HttpRoutes):
    """Methods by the path of a POST; for tests and measurements of the transport.

    `?pretty` counts as it does with models; `?gzip` says that the body is the answer, gzip-coded.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self.methods = {path.encode(): method for path, method in methods.items()}

    cdef Method find(self, const HttpHead* head, Call* call):
        cdef bytes query
        method = self.methods.get(head.path.data[:head.path.size])
        if method is None or head.verb != VERB_POST:
            return None
        query = head.query.data[:head.query.size] if head.query.size else b""
        call.rest.verb = REST_PREDICT
        call.rest.pretty = query == b"pretty"
        call.rest.sends_gzip = query == b"gzip"
        return method
