import asyncio

from tfsrv.frontends._http1 import Http1Server

class HttpConnection(asyncio.BufferedProtocol):
    def __init__(self, server: Http1Server) -> None: ...
