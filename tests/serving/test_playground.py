"""The playground in a real browser, against the gateway with an engine of a few lines; its files over plain HTTP."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.door import page as pages
from tests.serving.chromium import Page, chromium, find
from tests.serving.talker import FAKE_TASKS, Talker, served
from tests.serving.test_gateway import FINGERPRINT, FakeEngine, launch, talk

KEY = "sk-playground-0123456789"
ENDED = "document.querySelector('article:last-child .turn-actions')"
LAST = "article.answer:last-child"
needs_chromium = pytest.mark.skipif(find() is None, reason="no Chromium on this machine: install `chromium`")


# --- over plain HTTP -------------------------------------------------------------------------------------------------


def test_the_page_is_served_without_a_key_and_strictly():
    async def story(client):
        return [await client.get(path) for path in pages.files()]

    answers = talk(FakeEngine(), story, key_hashes=(hashlib.sha256(KEY.encode()).hexdigest(),))
    assert [answer.status_code for answer in answers] == [200] * len(pages.files())
    assert {path.name for path in pages.FOLDER.iterdir()} == {"index.html"} | {
        name.removeprefix("/playground/") for name in pages.files() if name != "/"
    }, "a file of the page is not served"
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-manta-fingerprint"] == FINGERPRINT


def test_what_a_browser_has_is_not_sent_again():
    async def story(client):
        first = await client.get("/")
        return first, await client.get("/", headers={"if-none-match": first.headers["etag"]})

    first, again = talk(FakeEngine(), story)
    assert first.text.startswith("<!doctype html>")
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/playground/../page.py", "/playground/%2e%2e/page.py", "/playground/index.html"])
def test_nothing_else_is_served(path):
    assert talk(FakeEngine(), lambda client: client.get(httpx.URL(f"http://test{path}"))).status_code == 404


def test_the_page_loads_nothing_from_elsewhere_and_makes_no_markup_of_text():
    for path in pages.FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, path
        assert not any(word in text for word in ("innerHTML", "insertAdjacentHTML", "eval(", " style=")), path


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    program = find()
    assert program is not None
    # Not below pytest's own folder: Chromium's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    try:
        with chromium(program, folder) as page:
            page.resize(1280, 800)
            yield page
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def talker() -> Talker:
    return Talker()


@pytest.fixture
def page(browser: Page, talker: Talker) -> Iterator[Page]:
    """The page of an endpoint without keys; its storage is empty."""
    with served(talker, launch(max_body_bytes=100_000)) as url:
        browser.open(url)
        browser.wait("document.querySelector('#model').value === 'tiny'")
        browser.complaints.clear()
        yield browser


def say(page: Page, text: str) -> None:
    page.run("document.querySelector('#message').focus()")
    page.type(text)
    page.press("Enter")


@needs_chromium
@pytest.mark.integration
def test_a_message_is_typed_streamed_and_looked_at(page, talker):
    page.run("document.querySelector('#system').value = 'Be brief.'")
    page.run("document.querySelector('#seed').value = '7'")
    say(page, "Why rainbows?")
    page.wait(ENDED)
    assert page.text(f"{LAST} .answer-text") == "Rainbows form when light bends in drops.\nSun behind you, rain ahead."
    figures = page.text(f"{LAST} .figures")
    assert "first token" in figures and "tokens/s" in figures and "17 tokens" in figures
    asked = talker.asked[-1]
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why rainbows?"},
    ]
    assert (asked["model"], asked["seed"], asked["max_tokens"], asked["top_logprobs"]) == ("tiny", 7, 128, 5)
    assert page.text("#fingerprint") == FINGERPRINT[:12]

    page.point(f"{LAST} .token:nth-child(3)")
    card = page.text("#token-card")
    assert "␣form" in card and "32.0 %" in card and "␣arcs" in card
    page.run(f"document.querySelector('{LAST} .answer-text').focus()")
    page.press("ArrowRight")
    assert "␣when" in page.text("#token-card")
    page.press("Escape")
    assert page.run("document.querySelector('#token-card').hidden")

    page.run("document.querySelector('#model').value = 'other'")
    say(page, "And again?")
    page.wait(f"document.querySelectorAll('article').length === 4 && {ENDED}")
    assert [message["role"] for message in talker.asked[-1]["messages"]] == ["system", "user", "assistant", "user"]
    assert talker.asked[-1]["model"] == "other"
    assert page.complaints == []


@needs_chromium
@pytest.mark.integration
def test_a_character_of_two_tokens_is_shown_once_with_both(page):
    say(page, "emoji")
    page.wait(ENDED)
    assert page.run(f"document.querySelector('{LAST} .answer-text').textContent") == "🌈 !"
    page.point(f"{LAST} .token")
    assert page.run("document.querySelectorAll('#token-card .token-facts').length") == 2


@needs_chromium
@pytest.mark.integration
def test_an_answer_is_stopped_and_the_engine_knows(page, talker):
    say(page, "slow")
    page.wait(f"document.querySelectorAll('{LAST} .token').length > 3")
    page.press("Escape")
    page.wait(ENDED)
    assert "stopped" in page.text(f"{LAST} .figures")
    assert talker.left.wait(20), "the connection stayed open"
    assert page.text(f"{LAST} .answer-text").startswith("Rainbows")
    page.wait("!document.querySelector('#send').hidden")

    say(page, "slow")
    page.wait(f"document.querySelectorAll('article').length === 4 && document.querySelector('{LAST} .token')")
    page.click("#new-chat")
    page.wait("!document.querySelector('#send').hidden && !document.querySelector('article')")
    say(page, "Hello")
    page.wait(ENDED)
    assert talker.asked[-1]["messages"] == [{"role": "user", "content": "Hello"}], "the old chat is still told"


@needs_chromium
@pytest.mark.integration
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("busy", "Too many requests with this key. Try again in 2 seconds."),
        ("break", "The answer broke off. The endpoint failed to answer this request."),
        ("fault", "The answer broke off. The endpoint failed to answer this request."),
        ("noise", "The answer broke off: what came was not an event of a stream."),
    ],
)
def test_failures_are_told_in_words_and_can_be_repeated(page, talker, said, words):
    say(page, said)
    page.wait(ENDED)
    assert words in page.text(f"{LAST} .problem")
    if said in ("break", "fault"):
        assert page.text(f"{LAST} .answer-text") == "Rainbows form when"
    page.wait(f"!document.querySelector('{LAST} .turn-actions button:last-child').disabled")
    page.run(f"document.querySelector('{LAST} .turn-actions button:last-child').click()")
    page.wait(f"document.querySelectorAll('article').length === 2 && {ENDED}")
    first, second = (asked["messages"] for asked in talker.asked)
    assert first == second
    say(page, "Hello")
    page.wait(f"document.querySelectorAll('article').length === 4 && {ENDED}")
    # What came of a broken answer is told again; a question that had none is not.
    assert len(talker.asked[-1]["messages"]) == (3 if said in ("break", "fault") else 1)


@needs_chromium
@pytest.mark.integration
def test_the_key_is_asked_for_refused_and_kept_in_this_tab_only(browser, talker):
    keys = (hashlib.sha256(KEY.encode()).hexdigest(),)
    with served(talker, launch(key_hashes=keys, max_body_bytes=100_000)) as url:
        browser.open(url)
        browser.wait("document.querySelector('#key-dialog').open")
        browser.type("sk-wrong-0123456789")
        browser.press("Enter")
        browser.wait("document.querySelector('#key-error').innerText.includes('does not know this key')")
        browser.type(KEY)
        browser.press("Enter")
        browser.wait("document.querySelector('#model').value === 'tiny'")
        say(browser, "Hello")
        browser.wait(ENDED)
        assert talker.asked
        assert browser.run("Object.values(sessionStorage)") == [KEY]
        assert KEY not in str(browser.run("Object.values(localStorage)"))
        browser.run(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: (text) => { window.copied = text }}})"
        )
        browser.click("#curl")
        browser.wait("window.copied")
        copied = browser.run("window.copied")
        assert f"curl {url}/v1/chat/completions" in copied and "$MANTA_API_KEY" in copied and KEY not in copied


@needs_chromium
@pytest.mark.integration
def test_light_and_dark_follow_the_system_until_the_switch_is_used(page):
    ground = "getComputedStyle(document.body).getPropertyValue('background-color') + getComputedStyle(document.documentElement).backgroundColor"
    page.prefer("light")
    light = page.run(ground)
    page.prefer("dark")
    dark = page.run(ground)
    assert light != dark
    page.click("#theme-button")
    assert page.run(ground) == light
    page.call("Page.reload")
    page.wait("document.readyState === 'complete' && document.querySelector('#model')?.value === 'tiny'")
    assert page.run(ground) == light
    assert page.run("document.querySelector('#theme-button').getAttribute('aria-pressed')") == "false"


@needs_chromium
@pytest.mark.integration
def test_listed_tasks_have_tabs_that_work_on_a_telephone(browser, talker):
    with served(talker, launch(max_body_bytes=100_000), tuple(FAKE_TASKS)) as url:
        browser.resize(380, 740)
        browser.open(url)
        browser.wait("document.querySelectorAll('#tabs button').length === 9")
        browser.complaints.clear()
        shown = {}
        for name in FAKE_TASKS:
            browser.run(f"document.querySelector('#tab-{name}').click()")
            if name == "token-classification":  # offsets count characters, of which the first takes two places here
                browser.run(f"document.querySelector('#{name}-text').value = '🌈 Ada lives in London.'")
            browser.run(f"document.querySelector('#panel-{name} form').requestSubmit()")
            browser.wait(f"document.querySelector('#panel-{name} .figures')")
            shown[name] = browser.text(f"#panel-{name} .result")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the screen"
        marks = browser.run("[...document.querySelectorAll('mark')].map((mark) => mark.textContent)")
        browser.resize(1280, 800)
    assert marks == ["AdaPER", "LondonLOC", "1843answer"]
    assert shown["text-classification"].index("positive") < shown["text-classification"].index("negative")
    assert "Paris" in shown["fill-mask"] and "80.0 %" in shown["fill-mask"]
    assert shown["relation-extraction"].index("born_in") < shown["relation-extraction"].index("none")
    assert "Das Haus ist klein." in shown["translation"] and "A bridge is late." in shown["summarization"]
    assert "Somebody makes music." in shown["feature-extraction"] and "80.0 %" in shown["feature-extraction"]
    asked = {each["model"].removeprefix("model-"): each for each in talker.asked}
    assert list(asked) == list(FAKE_TASKS)
    assert "[MASK]" in asked["fill-mask"]["inputs"]
    assert asked["question-answering"]["inputs"].keys() == {"question", "context"}
    assert asked["relation-extraction"]["inputs"] | {"text": ""} == {"text": "", "head": [0, 11], "tail": [24, 30]}
    assert len(asked["feature-extraction"]["inputs"]) == 3
    assert browser.complaints == []


@needs_chromium
@pytest.mark.integration
def test_every_control_has_a_name(page):
    unnamed = page.run(
        """[...document.querySelectorAll('button, input, select, textarea')].filter((control) => !(
            control.getAttribute('aria-label') || control.labels?.length || control.innerText.trim()
        )).map((control) => control.outerHTML)"""
    )
    assert unnamed == []
