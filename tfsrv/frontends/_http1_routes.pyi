from collections.abc import Mapping

from tfsrv._method import Method

class HttpRoutes: ...

class PathRoutes(HttpRoutes):
    def __init__(self, methods: Mapping[str, Method]) -> None: ...
