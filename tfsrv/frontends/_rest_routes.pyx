"""Which method runs a model for a REST request: the same ones as for gRPC.

Every other request is for Python to answer (rest_api), also one to run a model that has something wrong in
its head.
"""

from tfsrv._call cimport Call
from tfsrv._method cimport Method
from tfsrv._rest_call cimport REST_CLASSIFY, REST_PREDICT
from tfsrv.frontends._http1_head cimport VERB_POST, HttpHead
from tfsrv.frontends._rest_target cimport rest_read_target

from tfsrv.frontends.rest_paths import methods_of


cdef class RestRoutes(HttpRoutes):
    """Of the three methods of the PredictionService that REST has."""

    def __init__(self, predict: Method, classify: Method, regress: Method, *, has_management: bool = False) -> None:
        """`has_management`: paths of models take PUT and DELETE."""
        self.predict = predict
        self.classify = classify
        self.regress = regress
        self.has_management = has_management

    cdef Method find(self, const HttpHead* head, Call* call):
        if head.verb != VERB_POST or not rest_read_target(
            head.path, head.query, head.content_type, head.accept, &call.rest, &call.request
        ):
            return None
        if call.rest.verb == REST_PREDICT:
            return self.predict
        return self.classify if call.rest.verb == REST_CLASSIFY else self.regress

    cdef bytes allow(self, const HttpHead* head):
        path = head.path.data[:head.path.size].decode("latin-1")
        return ", ".join((*methods_of(path, self.has_management), "OPTIONS")).encode()
