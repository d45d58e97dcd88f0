"""Audits of servers over a table: what holds, what is biased, and what nothing can be said about."""

from __future__ import annotations

import pytest

from draftgraph.errors import OptionError
from draftgraph.lab.remote.audit import Asking, ServerAudit, audit_server
from draftgraph.lab.remote.client import ServerError
from draftgraph.lab.remote.plan import Plan, Way
from draftgraph.lab.remote.report import server_report
from draftgraph.view.sheet import to_markdown
from table_server import table_server

OFF = {"plain": True}


def audited(url: str, *, off: dict | None = OFF, against: str | None = None, alpha: float = 0.01, asking=None, **plan):
    ways = [Way(url)] + ([] if off is None and against is None else [Way(against or url, body=off or {})])
    options = {"prompts": ("one", "two"), "samples": 150, "tokens": 3, "greedy_tokens": 8, "seed": 3} | plan
    heard: list[str] = []
    found, _ = audit_server(
        Plan(ways=tuple(ways), **options), asking or Asking(), alpha, lambda done, total: None, heard.append
    )
    assert "0.9" in heard[0] or "greedy" in heard[0]
    return found


def told(found: ServerAudit) -> str:
    return to_markdown("audit", server_report(found))


def test_an_honest_server_holds_and_the_report_says_what_that_is_worth():
    with table_server() as (url, behaviour):
        found = audited(url)
    assert (found.verdict, found.reasons) == ("holds", ())
    assert found.answers == (300, 300)
    assert found.drafted == (900, 0)
    assert len({body["seed"] for body in behaviour.asked if body.get("temperature")}) == 600, "no two with one seed"
    assert all(0.05 < tv < 0.25 for tv in found.detectable)
    assert found.greedy is not None
    assert not found.greedy.partings
    report = told(found)
    assert (
        f"holds: no difference found between answers with drafts and without; a bias of TV {found.detectable_tv:.3f}"
        in report
    )
    assert "the server says that it drafted 900 tokens for 300 texts" in report


@pytest.mark.parametrize("kind", ["completions", "chat"])
@pytest.mark.parametrize("listed", [5, 0])
def test_a_mistaken_server_is_found_with_and_without_probabilities(kind, listed):
    with table_server(planted=0.3, kinds=(kind,), listed=listed) as (url, _):
        found = audited(url)
    assert found.verdict == "biased"
    assert found.judged.two.refuted
    assert (found.judged.stated is None) == (listed == 0)
    if listed:
        assert found.judged.stated.refuted
        assert not found.judged.yardstick.refuted
        assert 0.2 < found.judged.two.views[0].tv < 0.4
    assert "another law than answers without" in told(found)


def test_one_way_is_tested_against_its_own_word():
    with table_server(planted=0.2) as (url, _):
        found = audited(url, off=None)
        assert found.verdict == "biased"
        assert "do not follow the probabilities that the server itself states" in told(found)
    with table_server() as (url, _):
        assert audited(url, off=None).verdict == "holds"


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("planted", [0.0, 0.25])
def test_at_another_temperature_the_stated_law_is_understood(raw, planted):
    """Probabilities before temperature, and after it."""
    with table_server(planted=planted, raw=raw) as (url, _):
        found = audited(url, off=None, temperature=0.6, samples=300)
    assert found.sight.power == (1 / 0.6 if raw else 1.0)
    assert found.verdict == ("biased" if planted else "holds")


def test_two_servers_are_compared():
    with table_server(planted=0.3) as (url, drafting), table_server(drafts=False) as (other, plain):
        found = audited(url, off=None, against=other)
    assert found.verdict == "biased"
    assert len(drafting.asked) == len(plain.asked) - 2, "as many of both, and the plain greedy texts twice"


def test_a_server_that_says_it_drafted_nothing_was_not_tested():
    with table_server(drafts=False) as (url, _):
        found = audited(url)
    assert found.verdict == "untested"
    assert "drafted nothing" in told(found).split("untested: ")[1]


def test_a_switch_that_does_not_switch_is_told():
    with table_server(switch="another", planted=0.3) as (url, _):
        found = audited(url)
    assert found.verdict == "untested"
    assert "--off does not switch drafts off" in told(found)


def test_a_switch_that_is_ignored_in_silence_is_seen_by_what_the_server_states():
    """Both ways are mistaken and alike; the probabilities say that neither is plain."""
    with table_server(switch="another", planted=0.3, counts=False) as (url, _):
        found = audited(url)
    assert found.verdict == "untested"
    assert "--off switches nothing off" in told(found)
    assert "does not say whether it drafted" in told(found)


def test_two_models_are_not_taken_for_a_bias():
    with table_server() as (url, _), table_server(model=1, drafts=False) as (other, _):
        found = audited(url, off=None, against=other)
    assert found.verdict == "untested"
    assert "not the same model" in told(found)


def test_too_few_texts_hold_nothing():
    with table_server() as (url, _):
        found = audited(url, samples=10)
    assert found.verdict == "untested"
    assert "more --samples" in told(found)


def test_temperature_0_compares_greedy_texts_alone():
    with table_server() as (url, behaviour):
        found = audited(url, temperature=0)
    assert found.verdict == "holds"
    assert found.judged is None
    assert len(behaviour.asked) == 12, "three forms for each way, and three texts for each prompt"
    with table_server() as (url, _), table_server(model=1) as (other, _):
        found = audited(url, off=None, against=other, temperature=0)
    assert found.verdict == "biased"
    assert "Wrong: prompt 1, token" in told(found)


def test_without_probabilities_greedy_texts_that_part_say_nothing():
    with table_server(listed=0) as (url, _), table_server(model=1, listed=0) as (other, _):
        found = audited(url, off=None, against=other, temperature=0)
    assert found.verdict == "untested"


def test_filters_make_stated_probabilities_no_yardstick():
    with table_server() as (url, _):
        found = audited(url, body={"top_p": 0.9})
        assert found.judged.stated is None
        assert "do not say what top_p leaves" in found.reasons[0]
        with pytest.raises(OptionError, match=r"top_p leaves of them; leave that out, or write --off"):
            audited(url, off=None, body={"top_p": 0.9})


def test_one_way_without_probabilities_is_refused():
    with table_server(listed=0) as (url, _), pytest.raises(ServerError, match="states no probabilities"):
        audited(url, off=None)
    with pytest.raises(OptionError, match="write --off"):
        audited("http://127.0.0.1:9", off=None, asking=Asking(logprobs="never"))


def test_a_key_goes_to_its_own_server_only():
    with table_server() as (url, drafting), table_server() as (other, plain):
        audited(url, off=None, against=other, asking=Asking(keys=("a", None)), samples=20, greedy_tokens=0)
    assert set(drafting.keys) == {"Bearer a"}
    assert set(plain.keys) == {None}
