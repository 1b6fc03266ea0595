"""`tfsrv show` and `tfsrv predict`: look at models, and ask a server, from a shell."""
