"""Bytes on sockets: the transports."""
