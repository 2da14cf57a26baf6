"""HTML and page furniture go, prose and code stay; both in English and Chinese."""

from __future__ import annotations

import time

import pytest

from manta.data import cleaning
from manta.data.cleaning import Batch
from manta.data.cleaning.markup import is_boilerplate, without_tags
from manta.sections.prepare import Markup


def clean(text: str, **settings: bool) -> str:
    return cleaning.apply(Batch([text], [""]), [Markup.model_validate({"step": "markup", **settings})]).texts[0]


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("<p>A <b class='x > y'>bold</b> word.</p><p>Next&nbsp;one &amp; all.</p>", "A bold word.\n\nNext one & all."),
        ("<div>他说：<em>你好</em>！<br/>再见&hellip;</div>", "他说：你好！\n再见…"),
        ("a<script>if (1 < 2) {}</script>b<!-- <p> no --><STYLE type='x'>p {}</STYLE >c", "abc"),
        ("open <!-- comment and <script> that never end", "open <!-- comment and  that never end"),
        ("İ<script>x</script>y<!doctype html>", "İy"),
    ],
)
def test_tags_go_with_what_is_no_text_in_them(raw: str, plain: str) -> None:
    assert without_tags(raw) == plain


@pytest.mark.parametrize(
    "text",
    ["List<String> and Map<K, V>", "if a < b and c > d", "<email> 发送到 <ip>", "see ?a=1&copy=2&lt=3", "a <- b -> c"],
)
def test_what_is_no_html_stays(text: str) -> None:
    assert clean(text) == text


def test_entities_are_resolved_once_and_only_on_request() -> None:
    assert clean("&lt;b&gt; &#20013;&#x6587; &amp;lt; &nosuch;") == "<b> 中文 &lt; &nosuch;"
    assert clean("<b>x</b> &amp;", tags=False) == "<b>x</b> &amp;"


BOILERPLATE = [
    "Share on Facebook", "Skip to main content", "Back to top ↑", "Read more »", "Sign in", "Subscribe to our newsletter",
    "© 2024 Example Inc. All rights reserved.", "This website uses cookies to give you the best experience.",
    "Home | About us | Contact | Blog", "Accept all cookies", "Previous post", "Copyright 2024 Example Inc.",
    "分享到微博", "返回顶部", "上一篇：如何学习中文", "点击查看", "登录", "本网站使用Cookie来改善您的体验。", "首页 > 新闻 > 正文",
    "版权所有 © 2024 某某公司", "关注我们", "阅读全文",
]  # fmt: skip
PROSE = [
    "Share prices fell on Monday after the bank spoke.", "Sign in the right place and you are done.",
    "The search for a home went on.", "Copyright law protects authors.", "Share your results with the team.", "- email", "(c) a third case",
    "By using requests you can set cookies.", "Copyright is older than the web.",
    "We bake cookies.", "| Home | 12 | 13 |", "either/or/both", "Next we turn to the second question of this chapter.",
    "Previous work showed this.", "Email is older than the web.",
    "分享是一种美德。", "他登录了系统以后发现了问题。", "上一篇文章写得很好，大家都喜欢读，所以这一次我们接着往下面再讲讲这个有意思的故事，希望大家也一样喜欢。",
    "关注我们的孩子如何成长。", "网站的首页/新闻写得好",
]  # fmt: skip


@pytest.mark.parametrize("line", BOILERPLATE)
def test_page_furniture_is_removed(line: str) -> None:
    assert clean(f"The first line.\n{line}\n最后一行。") == "The first line.\n最后一行。"
    assert line in clean(f"The first line.\n{line}", boilerplate=False)


@pytest.mark.parametrize("line", PROSE)
def test_prose_about_the_same_things_stays(line: str) -> None:
    assert not is_boilerplate(line)


def test_unclosed_tags_cost_no_more_than_their_length() -> None:
    began = time.process_time()
    for piece in ('<a "', "<!--", "<script>", "<a b='", "<p ", "&amp", "<a " + "x" * 20):
        without_tags(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 5
