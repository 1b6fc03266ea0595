"""One request, whatever protocol it came by."""
