"""Notes with Flask: a logged-in user gets a token, the page subscribes with it, and a view publishes."""

import os
import secrets
import time
from pathlib import Path

import jwt
from flask import Flask, Response, abort, request, send_file, session

from realizehit.sync import APIClient

PASSWORDS = {"alice": "wonder", "bob": "builder"}  # yours are hashed, in a database
TOKEN_SECONDS = 300

app = Flask(__name__)
app.secret_key = os.environ["SECRET_KEY"]
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
# One for the application: threads and forked workers may use it, and it keeps its connections.
api = APIClient("http://127.0.0.1:8080/", key=os.environ["REALIZEHIT_KEY"])


def logged_in() -> str:
    return session.get("user") or abort(401)


@app.get("/")
def page() -> Response:
    return send_file(Path(__file__).with_name("page.html").absolute())


@app.post("/login")
def login() -> tuple[str, int]:
    user = request.json["user"]
    password = PASSWORDS.get(user)
    if password is None or not secrets.compare_digest(password.encode(), request.json["password"].encode()):
        abort(401)
    session["user"] = user
    return "", 204


@app.get("/token")
def token() -> dict[str, str]:
    user = logged_in()
    claims = {"sub": user, "exp": time.time() + TOKEN_SECONDS}
    return {"user": user, "token": jwt.encode(claims, os.environ["REALIZEHIT_JWT_SECRET"], algorithm="HS256")}


@app.post("/notes")
def write() -> tuple[str, int]:
    note = {"by": logged_in(), "text": request.json["text"]}
    api.publish({"kind": "note", "user": request.json["to"]}, note)
    return "", 204
