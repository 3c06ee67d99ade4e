"""Strings that are hard on tokenizers: written by hand, and made at random."""

from __future__ import annotations

import random

HAND_WRITTEN = [
    "",
    " ",
    " \t\n\r\x0b\x0c ",
    "\u00a0\u2003\u3000",
    "a",
    "A photo of a CAT.",
    "  a   photo\tof\n\na cat  ",
    "it's we're they've I'm you'll he'd don't IT'S 'S ''s '",
    "123 4567 1.5 ½ ² ٣ ৪ Ⅷ 一二三",
    "!!! ... ?!?! ---- ___ #hashtag @user $9.99 50% a_b-c/d\\e",
    "&amp; &lt;b&gt; &amp;amp; &amp;lt; &nbsp;x&nbsp; &#39;s &#x1F600; &notanentity; &copy &hearts;",
    "<b>bold</b> &amp; <i>x</i>",
    "a < b with entities of entities: &amp;lt;tag&amp;gt;",
    "<|endoftext|> <|startoftext|> <start_of_text> <end_of_text> <START_OF_TEXT>",
    "a<end_of_text>b<start_of_text><end_of_text>s 's<end_of_text>'s",
    "</w> a</w> </w>b",
    "😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ ☺︎",
    "e\u0301 n\u0303 a\u0308o\u0308 \u0301 क्षि กำ ﷺ",
    "Привет мир; γειά σου; שלום; مرحبا; नमस्ते; 你好，世界; こんにちは; 안녕하세요; สวัสดี",
    "İSTANBUL ıİ ß ẞ ǅ ﬁ ﬂ ＡＢＣ",
    "“quoted” ‘single’ «guillemets» – — … • ™ ®",
    "Ã©tÃ© â€œmojibakeâ€\x9d schÃ¶n",
    "zero\u200bwidth\u200djoiner\ufeffbom\u00adsoft\u2060",
    "control\x00\x01\x07\x1b[31mred\x1b[0m\x7f\x80\x9f end",
    "\x1c\x1d\x1e\x1f\x85\u2028\u2029",
    "lone surrogate \ud800 and pair \ud83d\ude00",
    "a" * 1000,
    "word " * 200,
    "!" * 300,
    "pneumonoultramicroscopicsilicovolcanoconiosis " * 20,
    *("dog " * n for n in range(73, 79)),
    *("dog " * n + "<end_of_text>" for n in range(73, 79)),
]
RANGES = [
    (0x20, 0x7F),
    (0x00, 0x100),
    (0xA0, 0x250),
    (0x250, 0x370),
    (0x370, 0x530),
    (0x590, 0x780),
    (0x900, 0xE80),
    (0x1E00, 0x2C00),
    (0x3000, 0x3200),
    (0x4E00, 0x5200),
    (0xAC00, 0xB000),
    (0xF900, 0x10000),
    (0x1D400, 0x1D800),
    (0x1F300, 0x1FB00),
    (0x00, 0x30000),
]
FRAGMENTS = [
    *(
        "'s",
        "'LL",
        " ",
        "  ",
        "&amp;",
        "&#",
        "&lt",
        ";",
        "<",
        "</w>",
        "<end_of_text>",
        "<START_OF_TEXT>",
        "a photo",
    ),
    *("\u0301", "\u200d", "é", "İ", "１", "_", "\t", "\n", "10", "cat", "Dog", ".", "…", "😀"),
]


def fuzz(count: int, seed: int) -> list[str]:
    """Strings of characters from one or two Unicode ranges, broken up by fragments that mean something."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        spans = rng.choices(RANGES, k=rng.randint(1, 2))
        parts = [
            rng.choice(FRAGMENTS) if rng.random() < 0.25 else chr(rng.randrange(*rng.choice(spans)))
            for _ in range(rng.randint(1, 60))
        ]
        texts.append("".join(parts))
    return texts
