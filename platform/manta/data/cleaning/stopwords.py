"""Stop words: the commonest words of a language, which any running text in it holds."""

from __future__ import annotations

from collections.abc import Iterable

# English: the eight of Gopher. Chinese in simplified and traditional writing.
STOP_WORDS = {
    language: frozenset(listed.split())
    for language, listed in {
        "en": "the be to of and that have with",
        "zh": "的 了 是 在 和 有 不 我 这 這 也 就 都 与 與 为 為 他 中 上 个 個 们 要 对 對 等 并 或",
        "de": "der die das und ist nicht ein eine zu mit den von auf für im dem des sich",
        "fr": "le la les de des et est un une que qui dans pour pas sur au du en",
        "es": "el la los las de y que en un una es por con para no se del al",
        "it": "il lo la gli le di e che un una per non con è del della sono in",
        "pt": "o a os as de e que em um uma para não com do da no na por",
        "nl": "de het een en van is in dat op te zijn niet met voor die aan er",
        "ru": "и в не на что с по это как а но из у за от для же к",
        "pl": "i w nie na się że do to z jest o jak od po dla za",
        "sv": "och att det i en är som på för av med den inte till ett om",
        "uk": "і в не на що з та до у як це за від по для є",
        "ja": "の に は を た が で て と も だ な です ます ない から",
    }.items()
}


def count(words: Iterable[str], language: str) -> int | None:
    """How many different stop words are among `words`; of the list that finds most where no language is told.

    None: there is no list for the language.
    """
    if language and language not in STOP_WORDS:
        return None
    seen = {word.lower() for word in words}
    lists = [STOP_WORDS[language]] if language else STOP_WORDS.values()
    return max(len(listed & seen) for listed in lists)
