"""The HTTP server: accepting, requests within bounds, publishing, health, metrics, the console and static files."""
