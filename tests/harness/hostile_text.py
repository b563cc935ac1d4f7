r"""Texts of every class of code point, each with how it is to be shown, written down here once more by hand."""

import unicodedata

CONTROLS = {chr(code): f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
SEPARATORS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\ufeff": "\\ufeff"}
BIDIRECTIONAL = {
    chr(code): f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
NONCHARACTERS = {
    "\ufdd0": "\\ufdd0",
    "\ufdef": "\\ufdef",
    "\ufffe": "\\ufffe",
    "\uffff": "\\uffff",
    "\U0001fffe": "\\U0001fffe",
    "\U0010ffff": "\\U0010ffff",
}
ESCAPED = CONTROLS | SEPARATORS | BIDIRECTIONAL | NONCHARACTERS

KEPT = (
    *("\ue000", "\U000f0000", "\U00012345", "\U0001f600", "e\u0301", "\U0001f468\u200d\U0001f469", "\u05d0\u0628"),
    *(
        '"',
        "'",
        "\\",
        "\\\\",
        "C:\\dir",
        "\\n",
        "{}",
        '{a="b"}',
        "#",
        "# EOF",
        "a b",
        ",",
        "=",
        "%",
        "$",
        "`",
        "\u00a0",
    ),
    *("[red]", "[/]", "[link=x]", "<b>", "\ufffd", "NaN", "+Inf"),
)

SHOWN = {
    **ESCAPED,
    **{text: text for text in KEPT},
    "\x1b[2J\x1b]0;title\x07": "\\x1b[2J\\x1b]0;title\\x07",
    "a\x00": "a\\x00",
    "".join(ESCAPED): "".join(ESCAPED.values()),
}
"""By text, how it is shown. No two are shown alike."""


def unsafe(text: str) -> set[str]:
    """The characters of a text that must never be shown as they are; a line break ends a line of a page."""
    forbidden = {character for character in text if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")}
    return (forbidden | (ESCAPED.keys() & set(text))) - {"\n"}
