"""Single tokens as clients read them."""

from __future__ import annotations

from draftgraph.backends.load import find_tokenizer
from draftgraph.data import bundled_pair
from draftgraph.server.token_texts import Offsets, TokenTexts

TEXT = "def f(x): return 'é語\U0001f600'"


def test_bytes_of_tokens_are_the_text_s_even_where_a_character_spans_several():
    tokenizer = find_tokenizer(None, bundled_pair()[0], False)
    texts = TokenTexts(tokenizer)
    ids = tokenizer(TEXT)["input_ids"]
    assert b"".join(map(texts.bytes_of, ids)).decode() == TEXT
    parts = [text for text in map(texts.text_of, ids) if text.startswith("bytes:")]
    assert parts
    assert all(set(part[len("bytes:") :]) <= set("\\x0123456789abcdef") for part in parts)


def test_offsets_count_whole_characters():
    offsets = Offsets(3)
    assert [offsets.before(piece) for piece in (b"ab", b"\xc3", b"\xa9", b"", b"c")] == [3, 5, 5, 6, 6]
    assert offsets.count == 7


class WordPieces:
    """A tokenizer that leaves out the first space, as those of Llama do, and falls back to bytes."""

    all_special_ids = (0,)
    names = ("<s>", "▁world", "<0xE2>", "x")

    def decode(self, ids, skip_special_tokens):
        return "".join("\ufffd" if self.names[i].startswith("<0x") else self.names[i].strip("▁") for i in ids)

    def convert_ids_to_tokens(self, token):
        return self.names[token]


def test_spaces_that_a_decoder_leaves_out_and_bytes_by_name_are_read():
    texts = TokenTexts(WordPieces())
    assert [texts.text_of(token) for token in range(4)] == ["<s>", " world", "bytes:\\xe2", "x"]
    assert texts.shown_bytes_of(0) == b""
