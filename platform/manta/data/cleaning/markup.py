"""Remove what is not prose: HTML tags and entities, and the lines that pages repeat around their text."""

from __future__ import annotations

import html
import re

from manta.data.cleaning.batch import Batch, Outcome, changed
from manta.sections.prepare import Markup

# Elements that begin a line of their own, those that stand in one, and those whose content is no text.
_BLOCKS = (
    "address article aside blockquote body br center dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 "
    "h5 h6 head header hr html li main menu nav ol optgroup option p pre section select summary table tbody td tfoot th thead "
    "title tr ul"
)
_INLINE = (
    "a abbr acronym area audio b base bdi bdo big button canvas caption cite code col colgroup data datalist del dfn em embed "
    "font frame frameset i iframe img input ins kbd label legend link map mark meta meter noscript object output param picture "
    "progress q rp rt ruby s samp small source span strike strong sub sup time track tt u var video wbr"
)
RAW = ("script", "style", "template", "svg", "math")
# Attributes may hold > in quotes. Nothing here reaches over a <, so that unclosed tags cost no more than their length.
_REST = r"""(?:[\s/](?:[^<>"']|"[^"<]*"|'[^'<]*')*+)?>"""
BLOCK = re.compile(rf"[ \t]*</?(?:{_BLOCKS.replace(' ', '|')}){_REST}[ \t]*", re.IGNORECASE)
TAG = re.compile(
    rf"</?(?:{_INLINE.replace(' ', '|')}|{'|'.join(RAW)}){_REST}|<!doctype[^<>]*>|<\?xml[^<>]*>", re.IGNORECASE
)
OPEN_RAW = re.compile(rf"<!--|<({'|'.join(RAW)}){_REST}", re.IGNORECASE)
# Only with its semicolon: `?a=1&copy=2` is an address.
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
EMPTY_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")

LONGEST = 300  # characters; longer lines are text
# Whole lines, but for marks around them (not the bullets of a list), in lower case.
CHROME = re.compile(
    # sharing and following
    r"(?:(?:click to )?share (?:(?:this )?(?:on|via|to|with) (?:facebook|twitter|x|linkedin|reddit|pinterest|whatsapp|telegram|"
    r"weibo|wechat|e-?mail|your friends)|this(?: (?:post|page|article|story|link))?)|share|tweet|pin it|follow us|subscribe"
    r"|follow us on .{1,40}|(?:sign up|subscribe) (?:for|to) (?:our|the) .{0,40}(?:newsletter|updates|mailing list).{0,40}"
    # moving about
    r"|skip to (?:main |the )?(?:content|navigation|search)|(?:back|return|go) to (?:the )?top|(?:toggle|main) (?:navigation|menu)"
    r"|(?:read|show|load|see|view) (?:more|all)|click here(?: (?:to|for) .{1,40})?|(?:previous|next) (?:post|article|page)"
    r"|leave a (?:comment|reply)|(?:log|sign) (?:in|out|up)|advertisement"
    # rights and cookies
    r"|(?:copyright )?© ?.{0,80}|copyright (?:\(c\) )?(?:19|20)\d\d\b.{0,80}|.{0,80}\ball rights reserved"
    r"|(?:this|our) (?:web)?site uses cookies\b.*|we use cookies\b.*"
    r"|by (?:continuing|using)\b.{0,40}\b(?:site|website|browse)\b.{0,80}\bcookies\b.*"
    r"|(?:accept|reject|manage)(?: all)? cookies|cookie (?:settings|policy|preferences)|privacy policy|terms (?:of use|of service|and conditions)"
    # the same in Chinese
    r"|(?:分享|转发|轉發|收藏)(?:到|至|给|本文|此文).{0,20}|分享|转发|轉發|收藏|点赞|點讚|关注我们|關注我們|(?:扫一扫|扫描二维码|掃描).{0,20}"
    r"|(?:返回|回到)(?:顶部|頂部|首页|首頁|列表)|[上下]一[篇页章頁](?:[：:].{0,40})?|(?:点击|點擊)(?:查看|这里|此处|這裡|加载|下载).{0,10}"
    r"|(?:阅读|閱讀|查看|加载|显示)(?:全文|更多|原文)|跳转到(?:主要)?内容|登录|登錄|登入|注册|註冊|登录/注册|广告|廣告|发表评论|發表評論"
    r"|(?:本|我们的?)(?:网站|網站|站)(?:使用|会使用).{0,10}cookies?.*|(?:接受|拒绝|管理)(?:全部|所有)? ?cookies?"
    r"|.{0,60}(?:版权所有|版權所有|保留所有权利|保留所有權利).{0,60}|隐私政策|使用条款|服务条款|.{0,10}icp备\d+号.{0,10})"
)
AROUND = " \t·|—»«›‹>→←↑↓[]【】：:.。!！…"
# A line of at least three short items, two of which every site has: a menu or the way to a page.
BETWEEN = re.compile(r"\s*[|｜·•›»>/]\s*")
_SITE = (
    "home|about|about us|contact|contact us|login|log in|sign in|sign up|register|blog|news|products|services|support|help"
    "|faq|sitemap|site map|careers|search|shop|cart|privacy|privacy policy|terms|terms of use|account|my account|subscribe"
    "|首页|首頁|关于我们|關於我們|联系我们|聯繫我們|登录|登錄|注册|註冊|新闻|新聞|产品|產品|服务|服務|帮助|幫助|网站地图|搜索|论坛|視頻|视频"
    "|下载|下載|招聘|正文"
)
SITE = frozenset(_SITE.split("|"))


def markup(batch: Batch, settings: Markup) -> Outcome:
    """Remove the tags of HTML's elements (of others none: List<String> stays), resolve entities, remove page furniture.

    Tags go from code examples too. Blocks begin a new line; scripts, styles and comments go with what they hold.
    """
    texts = batch.texts
    if settings.tags:
        texts = [without_tags(text) for text in texts]
    if settings.boilerplate:
        texts = ["\n".join(line for line in text.split("\n") if not is_boilerplate(line)) for text in texts]
    return changed(batch, texts)


def without_tags(text: str) -> str:
    """Tags removed, then entities resolved, once: `&lt;b&gt;` was meant to be read as <b>."""
    if "<" in text:
        bare = TAG.sub("", BLOCK.sub("\n", _without_raw(text)))
        text = EMPTY_LINES.sub("\n\n", bare).strip() if bare != text else text
    if "&" in text:
        text = ENTITY.sub(lambda found: html.unescape(found.group()).replace("\xa0", " "), text)
    return text


def _without_raw(text: str) -> str:
    """Comments and elements without text removed; one that nothing closes stays, less its tag."""
    kept, at, unclosed = [], 0, set[str]()
    lower = text.lower()
    if len(lower) != len(text):  # İ becomes two characters: places in one are not places in the other
        lower = text
    for found in OPEN_RAW.finditer(text):
        name = (found[1] or "").lower()
        if found.start() < at or name in unclosed:
            continue
        closer = f"</{name}" if name else "-->"
        end = lower.find(closer, found.end())
        if end < 0:
            unclosed.add(name)
            continue
        end = text.find(">", end) + 1 if name else end + len(closer)
        kept.append(text[at : found.start()])
        at = end or len(text)
    return "".join([*kept, text[at:]])


def is_boilerplate(line: str) -> bool:
    """Whether a line is furniture of a page: a cookie notice, a share button, a menu."""
    if not line or len(line) > LONGEST:
        return False
    bare = line.strip(AROUND).lower()
    return bool(CHROME.fullmatch(bare)) or _is_menu(line.lower())


def _is_menu(line: str) -> bool:
    items = [item for item in BETWEEN.split(line.strip()) if item]
    return len(items) >= 3 and sum(item in SITE for item in items) >= 2 and all(len(item) <= 25 for item in items)
