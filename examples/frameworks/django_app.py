"""Notes with Django, in one file: a logged-in user gets a token, the page subscribes with it, and a view publishes."""

import json
import os
import sys
import time
from pathlib import Path

import django
import jwt
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from realizehit.sync import APIClient

TOKEN_SECONDS = 300

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "notes.sqlite3"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ["SECRET_KEY"],
)
django.setup()

from django.contrib import auth  # noqa: E402 - needs the settings
from django.views.decorators.csrf import ensure_csrf_cookie  # noqa: E402
from django.views.decorators.http import require_POST  # noqa: E402

# One for the application: threads and forked workers may use it, and it keeps its connections.
api = APIClient("http://127.0.0.1:8080/", key=os.environ["REALIZEHIT_KEY"])


@ensure_csrf_cookie
def page(request: HttpRequest) -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html").open("rb"), content_type="text/html")


@require_POST
def login(request: HttpRequest) -> HttpResponse:
    said = json.loads(request.body)
    user = auth.authenticate(request, username=said["user"], password=said["password"])
    if user is None:
        return HttpResponse(status=401)
    auth.login(request, user)
    return HttpResponse(status=204)


def token(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return HttpResponse(status=401)
    user = request.user.get_username()
    claims = {"sub": user, "exp": time.time() + TOKEN_SECONDS}
    return JsonResponse(
        {"user": user, "token": jwt.encode(claims, os.environ["REALIZEHIT_JWT_SECRET"], algorithm="HS256")}
    )


@require_POST
def write(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return HttpResponse(status=401)
    said = json.loads(request.body)
    note = {"by": request.user.get_username(), "text": said["text"]}
    api.publish({"kind": "note", "user": said["to"]}, note)
    return HttpResponse(status=204)


urlpatterns = [path("", page), path("login", login), path("token", token), path("notes", write)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
