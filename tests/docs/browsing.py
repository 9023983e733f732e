"""What readers do in a browser, where opening a page is not all. A page names it: ``<!-- browser: NAME -->``."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.support.chromium import PATIENCE, Watched, opened

Publish = Callable[[Any, Any], None]

# Ask for another user's notes with a page's own token.
_OTHERS = """async (user) => {
    const { WSClient } = await import("http://127.0.0.1:8080/realizehit.js");
    const token = async () => (await (await fetch("/token")).json()).token;
    const client = new WSClient("ws://127.0.0.1:8080/ws", { token });
    const notes = client.subscribe({ kind: "note", user }).on("error", () => {});
    try {
        await notes.subscribe();
        return "subscribed";
    } catch (error) {
        return error.code;
    } finally {
        client.close();
    }
}"""


def two_users_write_notes(browser: Browser, _page: Watched | None, _publish: Publish) -> None:
    def log_in(page: Page, user: str, password: str) -> None:
        page.get_by_placeholder("user").fill(user)
        page.get_by_placeholder("password").fill(password)
        page.get_by_role("button", name="Log in").click()

    def write(page: Page, to: str, text: str) -> None:
        page.get_by_placeholder("to").fill(to)
        page.get_by_placeholder("text").fill(text)
        page.get_by_role("button", name="Send").click()

    with ExitStack() as stack:
        alice, bob = (stack.enter_context(opened(browser, "http://127.0.0.1:8000/")).page for _ in range(2))
        expect(alice.locator("#state")).to_have_text("not logged in")
        log_in(alice, "alice", "guessed")
        expect(alice.locator("#state")).to_have_text("wrong user or password", timeout=PATIENCE)
        log_in(alice, "alice", "wonder")
        log_in(bob, "bob", "builder")
        for page, user in ((alice, "alice"), (bob, "bob")):
            expect(page.locator("#state")).to_have_text(f"notes to {user}", timeout=PATIENCE)
        write(bob, "alice", "hello")
        expect(alice.locator("#notes li")).to_have_text(["bob: hello"], timeout=PATIENCE)
        write(alice, "bob", "welcome")
        expect(bob.locator("#notes li")).to_have_text(["alice: welcome"], timeout=PATIENCE)  # and no note to alice
        assert bob.evaluate(_OTHERS, "alice") == "forbidden"
        assert bob.evaluate(_OTHERS, "bob") == "subscribed"
        alice.reload()  # the session goes on
        expect(alice.locator("#state")).to_have_text("notes to alice", timeout=PATIENCE)


def both_lists_show_it(_browser: Browser, watched: Watched | None, publish: Publish) -> None:
    assert watched is not None
    page, news = watched.page, {"kind": "news", "channel": "CNN"}
    first = page.locator("section").filter(has_text="First").locator("li")
    second = page.locator("section").filter(has_text="Second").locator("li")
    for lines in (first, second):
        expect(lines).to_have_text(["hello"], timeout=PATIENCE)
    page.get_by_role("button", name="Hide the second").click()
    expect(second).to_have_count(0)
    publish(news, {"title": "once more"})
    expect(first).to_have_text(["once more", "hello"], timeout=PATIENCE)
    page.get_by_role("button", name="Show the second").click()
    expect(page.get_by_role("button", name=re.compile("Hide"))).to_be_visible()
    publish(news, {"title": "for both"})
    expect(first).to_have_text(["for both", "once more", "hello"], timeout=PATIENCE)
    expect(second).to_have_text(["for both"], timeout=PATIENCE)
    assert watched.errors == []


SCRIPTS: dict[str, Callable[[Browser, Watched | None, Publish], None]] = {
    "two users write notes": two_users_write_notes,
    "both lists show it, and one goes on when the other is gone": both_lists_show_it,
}
