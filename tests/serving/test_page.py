"""The page at /, in a real browser: ghost text, keys, files, an API key, chat, and what the page may load."""

import dataclasses
import json
import keyword
import re

import httpx
import pytest

from codellama_jax.config.serving import Server
from tests.serving.browser import CHROMIUM, Browser, Page

GHOST = "document.querySelector('#ghost').hidden ? '' : document.querySelector('#ghost ins').textContent"
VALUE = "document.querySelector('#text').value"
STATE = "document.querySelector('#suggestion-state').textContent"
COMPLETE = f"{STATE}.startsWith('suggestion after')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(browser, server) -> Page:
    return browser.open(f"{server.url}/")


@pytest.fixture
def page(opened):
    """The page with an empty editor. Afterwards, it must have reported no error, and loaded nothing from elsewhere."""
    opened.evaluate("text.blur(); text.value = ''; text.focus()")
    yield opened
    assert opened.problems == []
    host = opened.evaluate("location.origin")
    assert {url for url in opened.requested if not url.startswith((f"{host}/", "data:"))} == set()


@dataclasses.dataclass(frozen=True)
class Hole:
    """A text with a cursor, and what the API puts there."""

    before: str
    after: str
    answer: str


@pytest.fixture(scope="module")
def hole(server) -> Hole:
    """A hole whose answer can be typed on a keyboard: a random model often writes control characters."""
    after = "\n    return b\n"
    for before in (f"def f_{name}(a):\n    b = " for name in keyword.kwlist):
        body = {"prompt": before, "suffix": after, "max_tokens": 64, "temperature": 0, "stop": ["\n"]}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
        if re.match(r"[!-~]{2}", answer):
            return Hole(before, after, answer)
    raise AssertionError("no answer begins with two printable characters")


def fill(page: Page, before: str, after: str) -> None:
    """Puts a text into the editor, with the cursor inside."""
    page.evaluate(
        f"text.focus(); document.execCommand('insertText', false, {json.dumps(before + after)});"
        f"text.setSelectionRange({len(before)}, {len(before)})"
    )


def connect(page: Page, offline: bool = False, latency: int = 0) -> None:
    """Sets how the page reaches the server; `latency` in ms."""
    limits = {"latency": latency, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", offline=offline, **limits)


def suggestion(page: Page) -> str:
    """The ghost text when it is complete."""
    page.press(" ", "Control")
    page.wait(COMPLETE)
    return page.evaluate(GHOST)


# ---------------------------------------------------------------- what the server sends


def test_the_page_allows_nothing_but_its_own_script_and_style(server):
    response = httpx.get(f"{server.url}/")
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-[\w+/=]+'", policy["script-src"])
    assert response.headers["x-frame-options"] == "DENY" and response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\bimport\b.*from|innerHTML|alert\(", response.text)


def test_the_state_has_the_card_and_the_figures(server):
    state = httpx.get(f"{server.url}/page/state").json()
    llama = server.api.model.llama
    assert state["model"]["parameters"] == llama.parameters and state["model"]["infilling"] == "spm"
    before = state["figures"]["generated_tokens"]
    httpx.post(f"{server.url}/v1/completions", json={"prompt": "def", "max_tokens": 9, "seed": 1}, timeout=60)
    figures = httpx.get(f"{server.url}/page/state").json()["figures"]
    assert before < figures["generated_tokens"] <= before + 9 and figures["first_token_seconds"] > 0
    assert (figures["state"], figures["active"], figures["waiting"]) == ("ready", 0, 0)
    assert figures["pages"] == server.api.service.engine.pool.count


# ---------------------------------------------------------------- ghost text


def test_the_ghost_is_the_answer_of_the_api_and_tab_inserts_it(page, hole):
    fill(page, hole.before, hole.after)
    assert suggestion(page) == hole.answer
    assert page.evaluate(VALUE) == hole.before + hole.after, "the ghost is not part of the text"
    page.press("Tab")
    assert page.evaluate(VALUE) == hole.before + hole.answer + hole.after
    assert page.evaluate("text.selectionStart") == len(hole.before + hole.answer)
    page.press("z", "Control", command="undo")
    assert page.evaluate(VALUE) == hole.before + hole.after


def test_a_suggestion_comes_after_a_pause_in_typing_and_escape_dismisses_it(page, hole):
    fill(page, hole.before.rstrip(), hole.after)
    page.type(" ")
    page.wait(COMPLETE)
    assert page.evaluate(GHOST) == hole.answer
    page.press("Escape")
    assert page.evaluate(GHOST) == "" and page.evaluate(VALUE) == hole.before + hole.after


def test_typing_what_the_ghost_says_keeps_it_and_other_text_replaces_it(page, hole):
    fill(page, hole.before, hole.after)
    suggestion(page)
    requests = len(page.requested)
    page.type(hole.answer[:2])
    assert page.evaluate(GHOST) == hole.answer[2:]
    page.press("Backspace")
    assert page.evaluate(GHOST) == hole.answer[1:]
    assert [url for url in page.requested[requests:] if "completions" in url] == []
    page.type("≠")
    assert page.evaluate(GHOST) == ""


def test_control_and_right_accepts_a_word(page, hole):
    fill(page, hole.before, hole.after)
    suggestion(page)
    page.press("ArrowRight", "Control")
    word = page.evaluate(VALUE)[len(hole.before) : -len(hole.after)]
    assert word and hole.answer.startswith(word) and len(word) < len(hole.answer)
    assert page.evaluate(GHOST) == hole.answer[len(word) :]


def test_a_change_of_the_text_cancels_the_request(page, hole):
    fill(page, hole.before, hole.after)
    connect(page, latency=1000)  # so that the answer does not come before the next key
    before = len(page.events("Network.loadingFailed"))
    page.press(" ", "Control")
    assert page.evaluate(STATE) == "…"
    page.type("≠")
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 30))")
    assert [event["canceled"] for event in page.events("Network.loadingFailed")[before:]] == [True]
    connect(page)


def test_a_click_below_the_ghost_puts_the_cursor_where_the_text_is_seen(page):
    fill(page, "a = 1\n", "\nsecond\nthird\n")  # on an empty line, a suggestion may have several lines
    assert suggestion(page)
    box = page.evaluate(
        "(() => { const node = document.querySelector('#ghost pre').lastChild.firstChild, range = new Range();"
        " const at = node.data.indexOf('third'); range.setStart(node, at); range.setEnd(node, at + 3);"
        " return range.getBoundingClientRect().toJSON() })()"
    )
    page.click_at(box["right"], box["top"] + 5)
    assert page.evaluate("text.selectionStart") == page.evaluate(VALUE).index("third") + 3
    assert page.evaluate(GHOST) == ""


def test_the_layer_draws_the_text_as_the_textarea_does(page):
    """Tabs and wide characters are where they are without a ghost, in a text that is scrolled both ways."""
    fill(page, "\n" * 30 + "\tx = ('生活 🙂 é\t', " + "1, " * 50 + "'", "')\n" + "\n" * 40)
    page.evaluate("text.scrollTo(20, 300)")
    assert suggestion(page)
    box = page.evaluate("document.querySelector('#ghost pre').firstChild.getBoundingClientRect().toJSON()")
    left = page.evaluate("text.getBoundingClientRect().left")
    area = {"x": left + 3, "y": box["y"], "width": box["right"] - left - 6, "height": box["height"], "scale": 1}
    with_ghost = page.call("Page.captureScreenshot", clip=area)["data"]
    page.press("Escape")
    assert page.evaluate(GHOST) == ""
    assert page.call("Page.captureScreenshot", clip=area)["data"] == with_ghost


def test_a_text_longer_than_the_context_is_cut(page, server):
    line = "value = function(value, value, value)\n"
    fill(page, line * 200 + "b = ", "\n" + line * 200)
    for _ in range(3):  # the first answers tell how long the tokens are
        suggestion(page)
    assert len(server.api.tokenizer.encode(line * 200)) > server.api.service.context


def test_tab_indents_enter_keeps_the_indentation_and_escape_tab_leaves(page):
    page.evaluate("document.querySelector('#automatic').click(); text.focus()")
    page.press("Tab")
    page.type("a\nb")
    assert page.evaluate(VALUE) == "    a\n    b"
    page.press("Escape")
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "automatic"
    page.evaluate("document.activeElement.click()")


def test_a_file_keeps_its_line_ends(page):
    page.evaluate(
        "window.showOpenFilePicker = async () => [{ name: 'a.py',"
        " getFile: async () => new File(['x = 1\\r\\ny = 2\\r\\n'], 'a.py'),"
        " createWritable: async () => ({ write: async (data) => (window.written = data), close: async () => {} }) }]"
    )
    page.click("#open")
    page.wait(f"{VALUE} === 'x = 1\\ny = 2\\n'")
    page.type("z")
    page.click("#save")
    page.wait("window.written === 'zx = 1\\r\\ny = 2\\r\\n'")
    page.wait("document.querySelector('#file-name').textContent === 'a.py'")


# ---------------------------------------------------------------- the rest of the page


def test_every_control_has_a_name_and_a_place_in_the_order(page):
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if node.get("role", {}).get("value") in ("button", "textbox", "checkbox")]
    names = [node["name"]["value"] for node in controls]
    assert len(names) >= 4 and all(names)
    assert page.evaluate("document.querySelectorAll('[tabindex]:not([tabindex=\"0\"])').length") == 0


def test_the_card_and_the_figures_are_shown(page, server):
    page.wait("document.querySelector('#state').textContent === 'ready'")
    assert f"{server.api.model.llama.parameters:,}" in page.text("#card")
    page.wait("document.querySelector('#chart polyline').getAttribute('points').includes(' ')")
    assert "first token" in page.text("#figures")


def test_a_chat_sends_its_history_and_can_begin_again(browser, server, monkeypatch):
    if httpx.post(f"{server.url}/v1/chat/completions", json={}).status_code == 404:
        pytest.skip("this server has no chat")
    chatting = dataclasses.replace(server.api.model, chat_format="inst", dialogues=True)
    monkeypatch.setattr(server.api, "model", chatting)
    page = browser.open(f"{server.url}/")
    page.wait("document.querySelector('#chat-form').checkVisibility()")
    page.click("#message")
    page.type("a question\n")
    page.wait("document.querySelector('#log .assistant p') && document.querySelector('#send').textContent === 'Send'")
    answer = page.evaluate("document.querySelector('#log .assistant p').textContent")
    assert answer and page.text("#chat-state") == ""
    page.type("another\n")
    page.wait("document.querySelector('#send').textContent === 'Send'")
    bodies = [event["request"].get("postData") for event in page.events("Network.requestWillBeSent")]
    first, second = [json.loads(body)["messages"] for body in bodies if body]
    assert second[0] == first[0] == {"role": "user", "content": "a question"}
    assert second[1]["content"].strip().startswith(answer[:10]) and second[2]["content"] == "another"
    for _ in range(2):  # together they are longer than the context
        page.type("a longer question " * 20 + "\n")
        page.wait("document.querySelector('#send').textContent === 'Send'")
    assert "did not fit the model's context and were left out" in page.text("#log .assistant:last-child small")
    log = "document.querySelector('#log')"
    assert page.evaluate(f"{log}.scrollTop + {log}.clientHeight > {log}.scrollHeight - 3")  # the end is seen
    page.click("#new-chat")
    assert page.evaluate("document.querySelector('#log').childElementCount") == 0
    assert page.problems == []


def test_a_model_without_dialogues_says_that_it_does_not_chat(page):
    assert "not trained on dialogues" in page.text("#chat")
    assert page.evaluate("document.querySelector('#chat-form').hidden")


def test_on_a_phone_nothing_is_wider_than_the_page_and_a_button_accepts(browser, server, hole):
    page = browser.open(f"{server.url}/", width=390, height=844, dark=True)
    page.wait("document.querySelector('#card').children.length")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert not page.evaluate("document.querySelector('#accept').checkVisibility()")
    fill(page, hole.before, hole.after)
    suggestion(page)
    page.click("#accept")
    assert page.evaluate(VALUE) == hole.before + hole.answer + hole.after
    assert page.problems == []


def test_the_page_asks_for_a_key_and_keeps_it_in_the_session(browser, make_server):
    running = make_server(Server(api_keys=("a-secret-key",)))
    assert httpx.get(f"{running.url}/page/state").status_code == 401
    page = browser.open(f"{running.url}/")
    page.wait("document.querySelector('#key-dialog').open")
    page.type("another-key\n")
    page.wait("document.querySelector('#key-reason').textContent.includes('did not accept')")
    page.wait("document.querySelector('#key-dialog').open")
    page.type("a-secret-key\n")
    page.wait("document.querySelector('#state').textContent === 'ready'")
    assert page.evaluate("[sessionStorage['api-key'], localStorage.length, document.cookie]") == ["a-secret-key", 0, ""]


def test_a_server_that_does_not_answer_is_reported_until_it_does(browser, server):
    page = browser.open(f"{server.url}/")
    page.wait("document.querySelector('#state').textContent === 'ready'")
    connect(page, offline=True)
    page.wait("document.querySelector('#state').textContent.startsWith('The server does not answer')")
    fill(page, "def f(", "")
    page.press(" ", "Control")
    page.wait(f"{STATE}.startsWith('The server does not answer')")
    connect(page)
    page.wait("document.querySelector('#state').textContent === 'ready'")
