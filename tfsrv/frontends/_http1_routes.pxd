"""Which method answers which HTTP request."""

from tfsrv._call cimport Call
from tfsrv._method cimport Method
from tfsrv.frontends._http1_head cimport HttpHead


cdef class HttpRoutes:
    # The method that answers the request, or None when the server's HttpHandler does. In the loop's
    # thread, once the head is whole, and before the body comes. May append names to `call.request`
    # (the body follows behind them) and fill `call.rest`; both are reset when the answer is None.
    cdef Method find(self, const HttpHead* head, Call* call)

    # The methods that the path of an OPTIONS takes, as Allow lists them.
    cdef bytes allow(self, const HttpHead* head)


cdef class PathRoutes(HttpRoutes):
    cdef dict methods
