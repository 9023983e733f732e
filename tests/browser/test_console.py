"""The console in a real browser: what a person does with it, and what it must not do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from realizehit import __version__
from tests.browser.blocking_proxy import blocking_proxy
from tests.browser.cutting_proxy import cutting_proxy
from tests.support.chromium import PATIENCE, chromium, opened, publish
from tests.support.ports import free_port
from tests.support.processes import Server, serving
from tests.support.valkey import Valkey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NEWS = {"kind": "news", "channel": "CNN"}
TEXT = "kind=news,channel=CNN"
OPTIONS = ("--console", "--redis", "memory://", "--drain-seconds", "0.1")
CHAT = {"kind": "chat", "room": 7}
ROOM = "kind=chat,room=7"
RULES = """
[[history]]
pattern = { kind = "chat" }
size = 100
ttl = "5m"

[[history]]
pattern = { kind = "note", of = ["a", "b"] }
size = 1000
ttl = "2h"
"""

expect.set_options(timeout=PATIENCE)

# Texts that are smaller than 11 px, and those that are cut off where nothing scrolls to the rest.
SMALL_OR_CUT = """[...document.querySelectorAll("body *")].filter((each) => {
    const text = [...each.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!text || !each.checkVisibility() || each.closest(".hidden, .skip, pre, .scroll")) return false;
    const style = getComputedStyle(each);
    const cut = each.scrollWidth > each.clientWidth + 1 && style.overflowX === "hidden";
    const { left, right } = each.getBoundingClientRect();
    return parseFloat(style.fontSize) < 11 || cut || left < 0 || right > innerWidth;
}).map((each) => `${each.tagName} ${each.className} ${each.textContent.trim().slice(0, 40)}`)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(*OPTIONS) as server:
        yield server


@pytest.fixture
def server_with_history(tmp_path: Path) -> Iterator[Server]:
    rules = tmp_path / "history.toml"
    rules.write_text(RULES, encoding="utf-8")
    with serving(*OPTIONS, "--history", str(rules)) as server:
        yield server


def subscribe(page: Page, text: str = TEXT) -> None:
    page.get_by_text("Text", exact=True).click()
    page.get_by_label("Pattern", exact=True).first.fill(text)
    page.get_by_role("button", name="Subscribe", exact=True).click()
    expect(row(page, text)).to_have_attribute("data-state", "subscribed")


def row(page: Page, text: str = TEXT):  # type: ignore[no-untyped-def]  # a Locator
    return page.locator("#subscriptions li").filter(has_text=text)


def payloads(page: Page):  # type: ignore[no-untyped-def]  # a Locator
    return page.locator("#feed pre")


def test_http_publications_appear_without_other_requests(browser: Browser, server: Server) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        expect(page.get_by_text("Connected by WebSocket")).to_be_visible()
        subscribe(page)
        publish(server.api, (NEWS, {"title": "hello", "n": 12345678901234567890}), ({"kind": "other"}, "not for us"))
        expect(payloads(page)).to_have_text('{"title": "hello", "n": 12345678901234567890}')
        expect(page.locator("#feed .pattern")).to_have_text(TEXT)
        expect(row(page).locator(".tally")).to_have_text("1")
        page.get_by_role("button", name=f"Unsubscribe from {TEXT}").click()
        expect(row(page)).to_have_count(0)
        assert publish(server.api, (NEWS, 1))["results"][0]["nodes"] == 0
        assert watched.errors == []
        own = urlsplit(server.api).netloc
        assert {urlsplit(url).netloc for url in watched.requests} == {own}


def test_figures_of_the_node_come_alive(browser: Browser, server: Server) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        subscribe(page)
        node = page.locator("#nodes tbody tr")
        expect(node).to_have_count(1)
        expect(node.locator("td").first).to_have_text("up")
        expect(page.locator("#nodes-count")).to_have_text("1 process on 1 host")
        expect(page.locator(".chart .value").first).to_have_text("1")
        # Measured from publishing to delivery, once somebody looks.
        expect(page.locator(".chart .value").nth(2)).to_have_text(re.compile(r"^[\d.]+ ms$"))
        expect(page.get_by_role("img", name="Connections in the last 60 seconds: 1 now")).to_be_visible()
        busiest = page.locator("#busiest tbody tr")
        deadline = 100
        while not busiest.count() and deadline:
            publish(server.api, (NEWS, 1), (NEWS, 2))
            page.wait_for_timeout(200)
            deadline -= 1
        channel = busiest.first.get_by_role("button")
        expect(channel).to_have_text("channel=CNN,kind=news")
        channel.click()
        expect(page.locator("#subscriptions li")).to_have_count(1)  # it is subscribed to already, written otherwise
        assert watched.errors == []


def test_the_figures_outlive_a_subscription_to_them(browser: Browser, server: Server) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        expect(page.locator("#nodes tbody tr")).to_have_count(1)
        subscribe(page, "realizehit=stats")
        expect(payloads(page)).not_to_have_count(0)
        page.get_by_role("button", name="Unsubscribe from realizehit=stats").click()
        expect(row(page, "realizehit=stats")).to_have_count(0)
        page.get_by_role("button", name="Clear").click()
        with opened(browser, f"{server.api}console"):
            expect(page.locator(".chart .value").first).to_have_text("2")
        expect(payloads(page)).to_have_count(0)
        assert watched.errors == []


def test_processes_without_the_console_are_shown_and_one_that_died_as_gone(
    browser: Browser, shared_valkey: Valkey
) -> None:
    words = ("--redis", shared_valkey.url, "--drain-seconds", "0.1")
    with (
        serving(*words, "--console") as server,
        serving(*words) as other,
        opened(browser, f"{server.api}console") as watched,
    ):
        page = watched.page
        rows = page.locator("#nodes tbody tr")
        row = rows.filter(has_text=f"pid {other.pid}")
        expect(row.locator("td").first).to_have_text("up")
        expect(row.locator("td").nth(2)).to_have_text(__version__)
        expect(row.locator("td").last).to_have_text(re.compile(r"^[\d.]+ ms$"))
        expect(row).not_to_have_class("silent")
        other.die()
        expect(row.locator("td").first).to_have_text(re.compile(r"^gone for \d+ s$"))
        expect(row).to_have_class("silent")
        expect(page.locator("#nodes-count")).to_have_text(re.compile(r"^\d+ process(es)? on 1 host, \d+ gone$"))
        assert watched.errors == []


def test_it_begins_in_the_history_and_shows_positions(browser: Browser, server_with_history: Server) -> None:
    api = server_with_history.api
    at = [answer["at"] for answer in publish(api, *[(CHAT, n) for n in range(5)])["results"]]
    with opened(browser, f"{api}console", width=320) as watched:
        page = watched.page
        begin, position, error = page.get_by_label("Begin with"), page.get_by_label("Position"), "#subscribe-error"
        expect(position).to_be_hidden()
        begin.select_option("last")
        number = page.get_by_label("Number of messages")
        number.fill("none")
        page.get_by_role("button", name="Subscribe", exact=True).click()
        expect(page.locator(error)).to_have_text("write how many messages, such as 10")
        expect(number).to_be_focused()
        number.fill("2")
        subscribe(page, ROOM)
        expect(payloads(page)).to_have_text(["4", "3"])
        expect(page.locator("#feed .position")).to_have_text([f"at {at[4]}", f"at {at[3]}"])
        # The same pattern from an earlier position takes the place of the first subscription.
        begin.select_option("since")
        expect(number).to_be_hidden()
        position.fill(at[1])
        page.get_by_role("button", name="Subscribe", exact=True).click()
        expect(payloads(page)).to_have_text(["4", "3", "2", "4", "3"])
        expect(page.locator("#feed .recovered")).to_have_count(1)
        expect(page.locator("#subscriptions li")).to_have_count(1)
        page.locator("#publish-pattern").fill(ROOM)
        page.get_by_label("Payload, JSON").fill('"new"')
        page.get_by_role("button", name="Publish").click()
        epoch = at[0].partition(".")[0]
        expect(page.locator("#answer")).to_contain_text(f"at {epoch}.6")
        expect(payloads(page).first).to_have_text('"new"')
        # What cannot come is said.
        position.fill("aaaaaaaa.3")
        subscribe(page, "kind=chat,room=8")
        expect(page.locator("#feed .gap")).to_contain_text("is not kept; messages may be missing here")
        subscribe(page, "kind=news")
        expect(page.locator("#feed .note p")).to_have_text("This pattern has no history: no rule contains it.")
        subscribe(page, "realizehit=stats")
        expect(payloads(page).first).to_contain_text("recovered_from")
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        assert page.evaluate(SMALL_OR_CUT) == []
        assert watched.errors == []


def test_it_shows_what_is_kept_and_what_was_lost(browser: Browser, server_with_history: Server) -> None:
    api = server_with_history.api
    publish(api, *[(CHAT, n) for n in range(5)])
    with opened(browser, f"{api}console") as watched:
        page = watched.page
        rules = page.locator("#rules tbody tr")
        expect(rules).to_have_text(["kind=chat1005 min", "kind=note,of=a|b1,0002 h"])
        expect(page.locator("#gaps-empty")).to_be_visible()
        page.get_by_label("Begin with").select_option("last")
        subscribe(page, ROOM)
        expect(payloads(page)).to_have_count(5)
        expect(page.locator("#history-logs dd").first).to_have_text("1")
        expect(page.locator("#history-memory .note")).to_have_text(re.compile(r"^[1-5] messages in memory$"))
        expect(page.locator("#history-recovered .note")).to_contain_text("1 from ")
        expect(page.locator("#history-replayed .note")).to_have_text("5 in all")
        page.get_by_label("Begin with").select_option("since")
        page.get_by_label("Position").fill("aaaaaaaa.3")
        subscribe(page, "kind=chat,room=8")
        gap = page.locator("#gaps tbody tr td")
        expect(gap.nth(1)).to_have_text("kind=chat,room=8")
        expect(gap.nth(2)).to_contain_text("the position is unknown")
        expect(page.locator("#history-gaps .note")).to_have_text("0 told, 1 not recovered")
        deadline = 100
        while not page.locator("#busiest tbody small").count() and deadline:
            publish(api, (CHAT, 1))
            page.wait_for_timeout(200)
            deadline -= 1
        expect(page.locator("#busiest tbody small")).to_have_text(re.compile(r"^at \w{8}\.\d+$"))
        assert watched.errors == []


def test_what_it_missed_comes_when_the_network_is_back(browser: Browser, server_with_history: Server) -> None:
    api = server_with_history.api
    with (
        cutting_proxy(urlsplit(api).port or 0) as proxy,
        opened(browser, f"http://127.0.0.1:{proxy.port}/console") as watched,
    ):
        page = watched.page
        subscribe(page, ROOM)
        publish(api, (CHAT, 1))
        expect(payloads(page)).to_have_text("1")
        proxy.cut()
        expect(page.get_by_text("Reconnecting")).to_be_visible()
        publish(api, (CHAT, 2), (CHAT, 3))
        proxy.restore()
        expect(payloads(page)).to_have_text(["3", "2", "1"])
        expect(page.locator("#feed .recovered")).to_contain_text("Nothing is missing")
        expect(page.locator("#feed .gap")).to_have_count(0)


def test_malformed_lines_are_reported_and_valid_lines_published(browser: Browser, server: Server) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        subscribe(page)
        pattern, payload = page.locator("#publish-pattern"), page.get_by_label("Payload, JSON")
        answer, button = page.locator("#answer"), page.get_by_role("button", name="Publish")
        pattern.fill("kind=news,channel")
        payload.fill('{"title": }')
        button.click()
        expect(pattern).to_be_focused()
        expect(pattern).to_have_attribute("aria-invalid", "true")
        expect(page.locator("#publish-pattern-error")).to_contain_text("“channel” is not a filter")
        expect(page.locator("#payload-error")).to_contain_text("unexpected")
        expect(answer).to_be_hidden()
        pattern.fill('{"kind": "news", "channel": "CNN"}')
        payload.fill('{"title": "from the page"}')
        payload.press("Control+Enter")
        expect(answer).to_contain_text("reached 1 node")
        expect(payloads(page)).to_have_text('{"title": "from the page"}')
        payload.fill("12345678901234567890")
        button.click()
        expect(payloads(page).first).to_have_text("12345678901234567890")
        pattern.fill("kind=nobody")
        button.click()
        expect(answer).to_contain_text("nobody subscribes to it")
        assert watched.errors == []
        # What the server refuses is shown with its code; a browser writes the status to its console by itself.
        pattern.fill("realizehit=stats")
        button.click()
        expect(answer).to_contain_text("forbidden (403)")
        page.get_by_label("Pattern", exact=True).first.fill("realizehit=other")
        page.get_by_role("button", name="Subscribe", exact=True).click()
        expect(page.locator("#subscribe-error")).to_contain_text("reserved")
        expect(row(page, "realizehit=other")).to_have_count(0)


def test_it_shows_who_would_get_a_publication(browser: Browser, server: Server) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        subscribe(page)
        ask = page.get_by_role("button", name="Who gets it?")
        pattern = page.locator("#publish-pattern")
        pattern.fill("kind")
        ask.click()
        expect(page.locator("#publish-pattern-error")).not_to_have_text("")
        expect(pattern).to_be_focused()
        pattern.fill(TEXT)
        ask.click()
        expect(page.locator("#audience-table tbody td")).to_have_text(["channel:CNN|kind:news", "", "1", "1"])
        expect(page.locator("#audience-note")).to_contain_text("would go 1 time to a node · 0 of ")
        subscribe(page, "kind=news,channel=*")
        ask.click()
        shown = page.locator("#audience-table tbody tr").nth(1).locator("td")
        expect(shown).to_have_text(["channel:*|kind:news", "channel:*|kind:=", "1", "1"])
        expect(page.locator("#audience-note")).to_contain_text("would go 2 times to a node · 1 of ")
        pattern.fill("realizehit=stats")
        ask.click()
        expect(page.locator("#audience-note")).to_contain_text("forbidden (403)")
        expect(page.locator("#audience-table")).to_be_hidden()
        expect(payloads(page)).to_have_count(0)
        assert [error for error in watched.errors if "403" not in error] == []


def test_the_click_after_an_error_publishes(browser: Browser, server: Server) -> None:
    """An error's text that came or went as the field lost the focus moved the button away under the mouse."""
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        pattern, error = page.locator("#publish-pattern"), page.locator("#publish-pattern-error")
        answer, button = page.locator("#answer"), page.get_by_role("button", name="Publish")
        for wrong in ("kind=news,channel", "", "{"):
            pattern.fill(wrong)
            button.click()
            expect(error).not_to_be_empty()
            expect(answer).to_be_hidden()
            pattern.fill("kind=news")
            expect(error).to_be_empty()
            button.click()
            expect(answer).to_contain_text("nobody subscribes to it")
        assert watched.errors == []
        page.route(server.api, lambda route: route.abort())
        button.click()
        expect(answer).to_contain_text("not published")
        page.unroute(server.api)
        button.click()
        expect(answer).to_contain_text("nobody subscribes to it")


def test_a_pattern_that_is_being_unsubscribed_can_be_subscribed_again(browser: Browser, server: Server) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        subscribe(page)
        # Both in one turn: the server has not answered the first one yet.
        page.evaluate(
            """([unsubscribe, subscribe]) => { unsubscribe.click(); subscribe.click(); }""",
            [
                page.get_by_role("button", name=f"Unsubscribe from {TEXT}").element_handle(),
                page.get_by_role("button", name="Subscribe", exact=True).element_handle(),
            ],
        )
        expect(row(page)).to_have_count(1)
        expect(row(page)).to_have_attribute("data-state", "subscribed")
        publish(server.api, (NEWS, "again"))
        expect(payloads(page)).to_have_text('"again"')
        page.get_by_role("button", name=f"Unsubscribe from {TEXT}").click()
        expect(row(page)).to_have_count(0)
        assert watched.errors == []


def test_an_answer_is_that_of_the_last_click(browser: Browser, server: Server) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        pattern, answer = page.locator("#publish-pattern"), page.locator("#answer")
        button = page.get_by_role("button", name="Publish")
        pattern.fill("kind=first")
        button.click()
        expect(answer).to_contain_text("queued")
        held: list[Route] = []

        def hold_the_first(route: Route) -> None:
            if held:
                route.continue_()
            else:
                held.append(route)

        page.route(server.api, hold_the_first)
        button.click()
        expect(answer).to_be_hidden()  # the old one is gone while the new one is awaited
        pattern.fill("realizehit=stats")
        button.click()
        expect(answer).to_contain_text("forbidden (403)")
        with page.expect_response(server.api):
            held[0].continue_()
        page.evaluate("new Promise((resolve) => setTimeout(resolve))")
        expect(answer).to_contain_text("forbidden (403)")
        # So with what is said of a subscription.
        page.get_by_text("Text", exact=True).click()
        page.get_by_label("Pattern", exact=True).first.fill("realizehit=other")
        page.get_by_role("button", name="Subscribe", exact=True).click()
        expect(page.locator("#subscribe-error")).to_contain_text("reserved")
        subscribe(page)
        expect(page.locator("#subscribe-error")).to_be_empty()


@pytest.mark.parametrize("key", ["__proto__", "constructor", "toString"])
def test_keys_that_objects_have_are_keys_like_others(browser: Browser, server: Server, key: str) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        page.get_by_label("Key").fill(key)
        page.get_by_label("Value").fill("7")
        page.get_by_role("button", name="Subscribe", exact=True).click()
        expect(row(page, f"{key}=7")).to_have_attribute("data-state", "subscribed")
        page.locator("#publish-pattern").fill(f"{key}=7")
        page.get_by_role("button", name="Publish").click()
        expect(page.locator("#answer")).to_contain_text("reached 1 node")
        expect(payloads(page)).to_have_count(1)
        assert watched.errors == []


def test_the_list_is_bounded_and_can_be_held_still(browser: Browser, server: Server) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        subscribe(page)
        publish(server.api, *[(NEWS, n) for n in range(450)])
        expect(page.locator("#feed-count")).to_have_text("the last 200 of 450")
        expect(payloads(page)).to_have_count(200)
        expect(payloads(page).first).to_have_text("449")
        page.get_by_role("button", name="Pause").click()
        publish(server.api, *[(NEWS, n) for n in range(1000, 1003)])
        expect(page.locator("#feed-count")).to_have_text("paused, 3 more came")
        expect(payloads(page).first).to_have_text("449")
        page.get_by_role("button", name="Resume").click()
        expect(payloads(page).first).to_have_text("1002")
        # Screen readers are told of many at once, and of none one by one.
        expect(page.get_by_role("status").filter(has_text="new payloads")).to_have_count(1)
        page.get_by_role("button", name="Clear").click()
        expect(payloads(page)).to_have_count(0)
        assert watched.errors == []


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (f"[{'[1,2],' * 900}0]", None),  # many tokens: each would be an element
        ("[" * 900 + "]" * 900, None),
        ('{"a":' * 900 + "1" + "}" * 900, None),
        (f'"{"x" * 30_000}"', 20_000),
    ],
    ids=["many", "deep list", "deep object", "long"],
)
def test_a_payload_too_large_to_format_is_shown_unchanged(
    browser: Browser, server: Server, payload: str, shown: int | None
) -> None:
    body = b'{"pattern": {"kind": "news", "channel": "CNN"}, "payload": %b}' % payload.encode()
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        subscribe(page)
        for _ in range(20):
            with urlopen(Request(server.api, body, {"Content-Type": "application/json"}), timeout=20) as response:
                assert response.status == 200
        expect(row(page).locator(".tally")).to_have_text("20")
        expect(payloads(page)).to_have_count(20)
        text = payloads(page).first.text_content() or ""
        if shown is None:
            assert text == payload
        else:
            assert text.startswith(payload[:shown] + "… (")
        assert page.locator("#feed *").count() < 20 * 8
        assert watched.errors == []


def test_all_of_it_works_by_keyboard_and_shows_where_the_focus_is(browser: Browser, server: Server) -> None:
    with opened(browser, f"{server.api}console") as watched:
        page = watched.page
        focus = "[document.activeElement.id, document.activeElement.matches(':focus-visible')]"

        def press(*keys: str) -> None:
            for key in keys:
                page.keyboard.press(key)

        press("Tab", "Enter")  # the link over the figures and the theme
        for _ in range(10):
            if page.evaluate("document.activeElement.classList.contains('key')"):
                break
            press("Tab")
        page.keyboard.type("kind")
        press("Tab")
        page.keyboard.type("news")
        identity, visible = page.evaluate(focus)
        assert visible, identity
        for _ in range(3):
            press("Tab")
            if page.evaluate("document.activeElement.id") == "add-filter":
                break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        press("Enter")
        page.keyboard.type("channel")
        press("Tab")
        page.keyboard.type("CNN")
        press("Enter")
        expect(row(page)).to_have_attribute("data-state", "subscribed")
        publish(server.api, (NEWS, "by keyboard"))
        expect(payloads(page)).to_have_text('"by keyboard"')
        for _ in range(10):
            if page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Unsubscribe from {TEXT}":
                break
            press("Tab")
        press("Enter")
        expect(row(page)).to_have_count(0)
        assert page.evaluate("document.activeElement !== document.body")
        # Whatever can be focused has a name.
        nameless = page.evaluate(
            """[...document.querySelectorAll("button, input, textarea, [tabindex], a")].filter(e => e.checkVisibility()
            && !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.getAttribute("aria-labelledby")))
            .map(e => e.outerHTML)"""
        )
        assert nameless == []
        assert watched.errors == []


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_fits_a_narrow_screen_in_both_themes(browser: Browser, server: Server, theme: str) -> None:
    with opened(browser, f"{server.api}console", width=360, height=740, theme=theme) as watched:  # type: ignore[arg-type]
        page = watched.page
        subscribe(page)
        long = {"kind": "a" * 200, "channel": "b" * 90}
        subscribe(page, f"kind={long['kind']},channel={long['channel']}")
        publish(server.api, (NEWS, {"text": "x" * 2000, "list": list(range(40))}), (long, "y" * 500))
        expect(payloads(page)).to_have_count(2)
        expect(page.locator("#nodes tbody tr")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate(SMALL_OR_CUT) == []
        dark = "matchMedia('(prefers-color-scheme: dark)').matches"
        light = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(dark) == (theme == "dark")
        before = page.evaluate(light)
        page.get_by_role("button", name="Dark theme").click()
        assert page.evaluate(light) != before
        page.reload()
        expect(page.get_by_role("button", name="Dark theme", pressed=theme == "light")).to_be_visible()
        assert page.evaluate(light) != before
        # What was subscribed to is so again.
        expect(row(page)).to_have_attribute("data-state", "subscribed")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert watched.errors == []


def test_after_a_restart_of_the_server_it_arrives_again(browser: Browser) -> None:
    port = free_port()
    with serving("--port", str(port), *OPTIONS) as server, opened(browser, f"{server.api}console") as watched:
        page = watched.page
        subscribe(page)
        publish(server.api, (NEWS, "before"))
        expect(payloads(page)).to_have_text('"before"')
        assert watched.errors == []
        server.stop()
        expect(page.get_by_text("Reconnecting")).to_be_visible()
        with serving("--port", str(port), *OPTIONS) as again:
            expect(page.get_by_text("Connected by WebSocket")).to_be_visible()
            expect(row(page)).to_have_attribute("data-state", "subscribed")
            expect(page.locator("#feed .gap")).to_contain_text("messages may be missing")
            publish(again.api, (NEWS, "after"))
            expect(payloads(page).first).to_have_text('"after"')
            expect(page.locator("#nodes tbody tr")).to_have_count(1)
            expect(page.locator("#nodes tbody tr:not(.silent)")).to_contain_text(f"pid {again.pid}")


def test_where_websockets_are_blocked_it_arrives_as_events(browser: Browser, server: Server) -> None:
    port = urlsplit(server.api).port
    assert port is not None
    with blocking_proxy(port) as proxy, opened(browser, f"http://127.0.0.1:{proxy.port}/console") as watched:
        page = watched.page
        expect(page.locator("#nodes tbody tr")).to_have_count(1)
        expect(page.get_by_text("events over HTTP once you subscribe")).to_be_visible()
        subscribe(page)
        expect(page.get_by_text("Connected by events over HTTP")).to_be_visible()
        assert proxy.refused >= 2
        publish(server.api, (NEWS, {"over": "events"}))
        expect(payloads(page)).to_have_text('{"over": "events"}')
