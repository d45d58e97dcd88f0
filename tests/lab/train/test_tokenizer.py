"""The tokenizer loses nothing."""

from __future__ import annotations

from draftgraph.lab.train.tokenizer import END_OF_TEXT, train_tokenizer
from tiny import SOURCE, TINY


def test_the_tokenizer_gives_back_python_source() -> None:
    tokenizer = train_tokenizer([SOURCE] * 3, TINY.vocab)
    for text in (SOURCE, "if True:\n\n\n    x  =  1 ,2\r\n", "\x00 \U0001f40d"):
        ids = tokenizer.encode(text)
        assert 0 not in ids, "nothing is added that the text does not contain"
        assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(END_OF_TEXT) == 0
