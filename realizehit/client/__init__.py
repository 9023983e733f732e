"""Python clients: `ws` subscribes, `api` publishes over HTTP, `publisher` publishes straight to the broker.

They import nothing of the server.
"""
