"""Notes with FastAPI: a logged-in user gets a token, the page subscribes with it, and a view publishes."""

import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.middleware.sessions import SessionMiddleware

from realizehit import APIClient

PASSWORDS = {"alice": "wonder", "bob": "builder"}  # yours are hashed, in a database
TOKEN_SECONDS = 300

api = APIClient("http://127.0.0.1:8080/", key=os.environ["REALIZEHIT_KEY"])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with api:  # its connections are kept from one request to the next
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, secret_key=os.environ["SECRET_KEY"])


def logged_in(request: Request) -> str:
    if "user" not in request.session:
        raise HTTPException(401, "not logged in")
    return request.session["user"]


User = Annotated[str, Depends(logged_in)]


class Login(BaseModel):
    user: str
    password: str


class Note(BaseModel):
    to: str
    text: str


@app.get("/")
def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


@app.post("/login", status_code=204)
def login(request: Request, login: Login) -> None:
    password = PASSWORDS.get(login.user)
    if password is None or not secrets.compare_digest(password.encode(), login.password.encode()):
        raise HTTPException(401, "wrong user or password")
    request.session["user"] = login.user


@app.get("/token")
def token(user: User) -> dict[str, str]:
    claims = {"sub": user, "exp": time.time() + TOKEN_SECONDS}
    return {"user": user, "token": jwt.encode(claims, os.environ["REALIZEHIT_JWT_SECRET"], algorithm="HS256")}


@app.post("/notes", status_code=204)
async def write(user: User, note: Note) -> None:
    await api.publish({"kind": "note", "user": note.to}, {"by": user, "text": note.text})
