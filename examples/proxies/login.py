"""The part of a login that nginx and Caddy ask: whose session cookie is this? Yours looks it up in your sessions."""

from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SESSIONS = {"secret-of-alice": "alice", "secret-of-bob": "bob"}


class Login(BaseHTTPRequestHandler):
    """Answers ``GET /session`` with 200, and with ``X-User`` if the cookie ``session`` is known."""

    def do_GET(self) -> None:
        cookie = SimpleCookie(self.headers["Cookie"]).get("session")
        user = SESSIONS.get(cookie.value) if cookie else None
        self.send_response(200)
        if user:
            self.send_header("X-User", user)
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 9000), Login).serve_forever()
