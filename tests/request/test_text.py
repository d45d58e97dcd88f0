"""Which special tokens end a text, and text that is whole however far a request got."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AddedToken, PreTrainedTokenizerFast

from draftgraph.request.text import LONGEST_CONTEXT, Detokenizer, decoding, special_names, whole_text
from models import byte_tokenizer


def speaking(*special: Any, plain: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(word, special=False) for word in plain])
    tokenizer.add_tokens([AddedToken(word, special=True) for word in special])
    return tokenizer


def test_special_tokens_are_known_by_what_decoding_leaves_out() -> None:
    tokenizer = speaking("<end>", "<other>", plain=("<tool>",))
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in ("<end>", "<other>", "<tool>", "</s>")}
    assert special_names(tokenizer, ["<end>"]) == {ids["<end>"]: "<end>"}
    assert special_names(tokenizer, ["a</s>b<end>"]) == {ids["<end>"]: "<end>", ids["</s>"]: "</s>"}
    assert special_names(tokenizer, ["<tool>", "plain"]) == {}  # it is shown, so it is found in the text
    assert special_names(tokenizer, []) == special_names(None, ["<end>"]) == {}


def test_a_special_token_is_named_as_it_is_decoded_or_as_it_is_written() -> None:
    tokenizer = byte_tokenizer()
    space = tokenizer.convert_tokens_to_ids("Ġ")
    tokenizer.add_tokens(["Ġ"], special_tokens=True)
    assert special_names(tokenizer, ["a b"]) == {space: " "}
    assert special_names(tokenizer, ["Ġ"]) == {space: "Ġ"}


def test_a_tokenizer_that_only_decodes_has_no_special_tokens() -> None:
    class Bare:
        def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
            return "x" * len(token_ids)

    assert special_names(Bare(), ["x"]) == {}
    assert whole_text(Bare(), [1, 2, 3], 1, ["y"]) == "xx"


@given(
    st.lists(st.sampled_from([*range(97, 100), 256, 257, *range(188, 193)]), max_size=12), st.integers(0, 12),
    st.sampled_from([(), ("ab",), ("b<end>",), ("<end>c", "ca"), ("<end><x>",)]),
)  # fmt: skip
def test_the_text_so_far_is_what_the_stream_gave_and_would_still_give(
    ids: list[int], count: int, stops: tuple[str, ...]
) -> None:
    tokenizer = speaking("<end>", "<x>")
    detokenizer = Detokenizer(tokenizer, [65], stops)
    given_away = ""
    for token in ids[:count]:
        given_away += detokenizer.push([token])
        if detokenizer.stopped:
            break
    assert given_away + detokenizer.finish() == whole_text(tokenizer, [65, *ids[:count]], 1, stops)


@given(
    st.lists(
        st.lists(st.sampled_from([*range(97, 100), 256, 257, *range(188, 193)]), min_size=1, max_size=4), max_size=9
    ),
    st.sampled_from([(), ("ab",), ("<end>c",)]),
)
def test_text_that_is_deferred_comes_at_the_end_and_is_the_same(
    rounds: list[list[int]], stops: tuple[str, ...]
) -> None:
    tokenizer = speaking("<end>", "<x>")
    told, deferred = (Detokenizer(tokenizer, [65], stops) for _ in range(2))
    deferred.defer()
    pieces = [(told.push(tokens), deferred.push(tokens)) for tokens in rounds]
    if not stops:
        assert not any(late for _, late in pieces)
    ends = told.finish(), deferred.finish()
    text, late = (
        "".join(each) + end for each, end in zip(zip(*pieces, strict=True) if pieces else ((), ()), ends, strict=True)
    )
    assert late == text


@pytest.mark.parametrize("stop", [(), ("zz",)])
def test_an_unfinished_character_is_part_of_the_text_so_far(stop: tuple[str, ...]) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer("a日")["input_ids"]
    assert whole_text(tokenizer, [65, *ids], 1, stop) == "a日"
    assert whole_text(tokenizer, [65, *ids[:-1]], 1, stop) == tokenizer.decode(ids[:-1]) == "a\ufffd"


def test_a_named_special_token_ends_an_unfinished_character() -> None:
    tokenizer = speaking("<end>")
    end = tokenizer.convert_tokens_to_ids("<end>")
    first, second, third = tokenizer("日")["input_ids"]
    detokenizer = Detokenizer(tokenizer, [65], ("<end>!",))
    pieces = [detokenizer.push([token]) for token in (first, second, end, third)]
    assert "".join(pieces) + detokenizer.finish() == "\ufffd" + tokenizer.decode([third])


@given(st.lists(st.integers(0, 255), min_size=30, max_size=150), st.data())
def test_a_window_that_moves_loses_nothing(tokens: list[int], data: st.DataObject) -> None:
    """Rounds of one to seven tokens give the text of one round, and decode a window that stays short."""
    decoded: list[int] = []
    tokenizer = byte_tokenizer()

    class Counting:
        def decode(self, token_ids: Any, **options: Any) -> str:
            decoded.append(len(token_ids))
            return str(tokenizer.decode(token_ids, **options))

    prompt, tokens = tokens[:5], tokens[5:]
    detokenizer, text = Detokenizer(Counting(), prompt, ()), ""
    while tokens:
        size = data.draw(st.integers(1, 7))
        text += detokenizer.push(tokens[:size])
        prompt, tokens = [*prompt, *tokens[:size]], tokens[size:]
    assert text + detokenizer.finish() == whole_text(tokenizer, prompt, 5, ())
    assert max(decoded) <= LONGEST_CONTEXT + 2 * 7


class _Falling:
    """A tokenizer with letters and single bytes: a run of bytes that is no UTF-8 is rubbish throughout."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        return "".join(_shown(is_letter, list(run)) for is_letter, run in groupby(token_ids, lambda id: 32 <= id < 128))


def _shown(is_letter: bool, run: list[int]) -> str:
    try:
        return bytes(run).decode()
    except UnicodeDecodeError:
        assert not is_letter
        return "\ufffd" * len(run)


@pytest.mark.parametrize(
    "rounds",
    [
        [[97], [0x1D], [0xE2], [98], [99]],
        [[97], [0x1D, 0xE2], [98]],
        [[0xE6], [0x97, 0xA5], [0xE2], [97]],
        [[0xE6], [0x97, 0xA5]],
    ],
)
def test_rubbish_is_the_same_where_the_text_is_deferred(rounds: list[list[int]]) -> None:
    told, deferred = (Detokenizer(_Falling(), [65], ()) for _ in range(2))
    deferred.defer()
    text = "".join(told.push(tokens) for tokens in rounds) + told.finish()
    assert "".join(deferred.push(tokens) for tokens in rounds) == ""
    assert deferred.finish() == text


class Shouting(PreTrainedTokenizerFast):
    """A tokenizer whose text is not that of the class which it inherits from."""

    def _decode(self, *args: Any, **options: Any) -> str:
        return str(super()._decode(*args, **options)).upper()


def test_a_tokenizer_that_adds_nothing_is_asked_directly_and_every_other_one_as_it_is() -> None:
    plain, cleaning, patched = (speaking("<end>") for _ in range(3))
    shouting = Shouting(tokenizer_object=byte_tokenizer().backend_tokenizer)
    cleaning.clean_up_tokenization_spaces = True
    patched.decode = lambda ids, **options: "patched"
    ids = [*plain("so it is .")["input_ids"], plain.convert_tokens_to_ids("<end>")]
    asked: list[Any] = []
    for tokenizer in (plain, cleaning, patched, shouting):
        decode = decoding(tokenizer)
        asked.append(decode.func)  # type: ignore[attr-defined]
        assert decode(ids[:-1]) == tokenizer.decode(ids[:-1], skip_special_tokens=True)
    assert asked[0] == plain.backend_tokenizer.decode
    assert asked[1:] == [cleaning.decode, patched.decode, shouting.decode]
    assert decoding(plain)(ids) == "so it is ."  # without the special token
    assert decoding(shouting)(ids[:-1]) == "SO IT IS ."
    assert decoding(None)(ids) == ""
