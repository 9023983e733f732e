"""Log lines on standard error: how they look, how they are written, and those of the access log."""
