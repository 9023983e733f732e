"""The clients in other languages than Python, and the kit that holds all clients to the same behaviour."""
