"""The conformance kit of the clients: itself, and run for Python."""
