from tfsrv._method import Method
from tfsrv.frontends._http1_routes import HttpRoutes

class RestRoutes(HttpRoutes):
    def __init__(
        self, predict: Method, classify: Method, regress: Method, *, has_management: bool = False
    ) -> None: ...
