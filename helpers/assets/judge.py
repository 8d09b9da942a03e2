"""Whether an answer is faithful to what the tools returned: a strict rule, without a model.

`fault` names the first thing that is wrong with an answer:

denies      it says of more than the gold answer does that it cannot be done
loops       it says something three times in a row, or a result's value twice in a sentence
invented    a number, code or capitalised name in it stands in no source. Sources are the question,
            earlier turns, the gold calls' arguments and results, and the gold answer
meaning     a word that changes the meaning stands in no source: a period (yesterday, last, week),
            a comparison (than, nearest), or a negation where the gold answer has none
choice      of a list in the arguments it names some members and not all, unlike the gold answer
missing     a marked fact is not there as whole tokens (80 is not in 1800, but 22.0 is 22)
wrong role  a result's number stands before another unit than in the gold answer or in its key
            ("25 hours" for an `hourly_fee` of 25 euros); a number without unit or a code stands in
            a clause without a word of its key or of the gold answer's clause about it; or a text
            or time stands in the clause of another value
hides       a tool failed, and neither all words of its error are there, nor a negation with a word
            of error or gold answer that the question lacks
vague       there is no fact to state, and under half of the gold answer's words are there

Words are compared by their first letters, Chinese by characters. The rule would rather reject: an
answer that leaves out what was not asked, or in quite other words, fails. What it cannot see: an
invented word that is no name and no number ("blue"). `tests/test_judge.py` counts both on answers
that were labelled by hand.
"""

import ast
import calendar
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from typing import NamedTuple

import json5

DENIALS = "cannot obtain|can't obtain|unable to|i cannot|i can't|无法|不能获取|抱歉".split("|")
_TOKEN = re.compile(
    r"https?://[^\s)\]]+|(?=[A-Za-z-]*\d)[A-Za-z0-9]+(?:[-:/][A-Za-z0-9]+|[.,]\d+)*"
    r"|[^\W\d_\u4e00-\u9fff]+|[\u4e00-\u9fff]|[%€$£¥°]"
)
_SENTENCE = re.compile(r"[.!?](?=\s|$)|[。！？\n]")
_PIECE = re.compile(rf"{_TOKEN.pattern}|[.!?,;:](?=\s|$)|[。！？，；：、\n()]")
_BREAKS = set(". ! ? , ; : 。 ！ ？ ， ； ： 、 \n ( ) and".split(" "))
_MEANING = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|last|next|previous|ago|week|month|year|morning|evening"
    r"|than|nearest|maximum|minimum|most|least|ahead|away)|[昨今明去前后]年|[昨今明后]天|[上下本]个?[周月]"
)
_NEGATIONS = set("not no never cannot none nothing without t 没 无 不 未".split())  # t: of "isn't"
_STOP = set(
    "a an and are as at be been by for from had has have here i in is it its now of on or per s so"
    " please that the then there this to was were which will with you your"
    " 的 了 是 在 为 和 与 您 你 我 有 已 这 该".split()
)
_SAME = {"%": "percent", "€": "euro", "eur": "euro", "$": "dollar", "usd": "dollar"}
_SAME |= {"kilowatt": "kwh", "°": "degree", "celsius": "degree", "min": "minute", "hr": "hour"}


def read_value(text: str, *readers: Callable[[str], object]) -> object:
    """What the first reader that can read the text makes of it; the text itself if none can."""
    for reader in readers:
        with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return reader(text)
    return text


def leaves(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every value in nested lists and dicts as text, but for booleans and None, with its key."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one, str(name))
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one, key)
    elif not isinstance(value, bool | None):
        yield key, str(value)


def tokens(text: str) -> list[str]:
    """Words in lower case and without a plural's s, numbers, dates and units in one spelling, codes
    and links as they are, Chinese characters one by one."""
    return [_token(found) for found in _TOKEN.findall(_iso_dates(text))]


def _token(text: str) -> str:
    with suppress(ValueError):
        return repr(float(text.replace(",", "")))
    if re.search(r"\d", text):
        return text
    word = text.lower()
    word = word[:-1] if len(word) > 3 and word.endswith("s") and word not in _STOP else word
    return _SAME.get(word, word)


def _is_word(token: str) -> bool:
    return token not in _STOP and (token.isalpha() or token in "£¥")


def _words(text: str) -> set[str]:
    return set(filter(_is_word, tokens(text)))


def _meet(some: set[str], others: set[str]) -> bool:
    """Whether a word of both is the same or has the same stem (revised, revision)."""
    pairs = [(one, other, min(len(one), len(other))) for one in some for other in others]
    stems = [(one, other, n - 2 if n > 6 else n) for one, other, n in pairs]
    return any(one == other or (n > 2 and one[:n] == other[:n]) for one, other, n in stems)


def _iso_dates(text: str) -> str:
    """The text with "April 7th, 2025" and "7 April 2025" as 2025-04-07."""
    for n, month in enumerate(calendar.month_name[1:], 1):
        if month not in text:
            continue
        text = re.sub(rf"(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?{month}", rf"{month} \1", text)
        text = re.sub(rf"{month} (\d)(?=\D)", rf"{month} 0\1", text)
        text = re.sub(rf"{month} (\d\d)(?:st|nd|rd|th)?,? (\d{{4}})", rf"\2-{n:02d}-\1", text)
    return text


def count(text: str, part: str) -> int:
    """How often `part` stands in the text as whole tokens."""
    words, wanted = tokens(text), tokens(part)
    starts = range(len(words) - len(wanted) + 1) if wanted else ()
    return sum(words[i : i + len(wanted)] == wanted for i in starts)


def fault(answer: str, case) -> str:
    """What is wrong with an answer, in a word of this module's head, or "". case: query, gold calls
    with their results, facts, gold answer, and history (the messages of earlier turns)."""
    results = [read_value(result, json5.loads, ast.literal_eval) for _, result in case.calls]
    values = [pair for result in results for pair in leaves(result)]
    earlier = " ".join(message["content"] for message in case.history)
    called = json.dumps(case.calls, ensure_ascii=False)
    source = f"{case.query} {earlier} {called} {case.answer}".replace("_", " ").casefold()
    lower, words, gold = answer.casefold(), tokens(answer), case.answer
    negated, named = _NEGATIONS & set(words), _NEGATIONS & set(tokens(gold))
    errors = [text for key, text in values if "error" in key or text.startswith("Tool api")]
    lists = [value for call, _ in case.calls for value in call["arguments"].values()]
    lists = [[str(one) for one in value] for value in lists if isinstance(value, list)]
    if any(word in lower and word not in gold.casefold() for word in DENIALS):
        return "denies"
    if re.search(r"(\S.{2,40}?)\1\1", answer, re.DOTALL) or _twice(answer, gold, values):
        return "loops"
    known = set(tokens(source)) | set(tokens(f"{case.query} {earlier} {called} {gold}"))
    if _names(answer) - known:
        return "invented"
    if any(found not in source for found in _MEANING.findall(lower)):
        return "meaning"
    if negated and not named and not errors:
        return "meaning"
    if any(0 < _told(one, answer) < len(one) != _told(one, gold) for one in lists):
        return "choice"
    if not all(count(answer, fact) for fact in case.facts):
        return "missing"
    if _wrong_role(answer, case, values):
        return "wrong role"
    if errors:
        new = _words(" ".join([gold, *errors])) - _words(case.query)
        asked = {_token(one[0]) for one in _TOKEN.finditer(gold) if _is_name(one[0])}
        asked &= set(tokens(case.query))
        told = negated and _meet(new, set(words) - _NEGATIONS) and (not asked or asked & set(words))
        return "" if told or set(tokens(errors[0])) <= set(words) else "hides"
    kept = [_meet({word}, set(words)) for word in tokens(gold) if word not in _STOP]
    return "vague" if not case.facts and 2 * sum(kept) < len(kept) else ""


def _twice(answer: str, gold: str, values: list[tuple[str, str]]) -> bool:
    texts = [text for _, text in values]
    return any(
        count(sentence, text) > max(1, count(gold, text), texts.count(text))
        for sentence in _SENTENCE.split(answer)
        for text in texts
        if len(text) > 1
    )


def _names(answer: str) -> set[str]:
    """Numbers, codes, and words with a capital that no sentence, line or quotation begins with."""
    names, answer = set(), _iso_dates(answer)
    for found in _TOKEN.finditer(answer):
        before = answer[: found.start()].rstrip(" \"'(*") or "."
        if _is_name(found[0]) and (not found[0].isalpha() or before[-1] not in ".!?:\n-。！？"):
            names.add(_token(found[0]))
    return names - set(_SAME.values()) - _STOP


def _is_name(token: str) -> bool:
    return token[0].isupper() or re.search(r"\d", token) is not None


def _told(items: list[str], text: str) -> int:
    return sum(count(text, item) > 0 for item in items)


class _Place(NamedTuple):
    """A value of a result in a text: the words right after it (its unit), and those in its clause,
    with the clauses before for as long as all of their words stand in the question."""

    value: tuple[str, ...]
    unit: set[str]
    clause: set[str]


def _places(text: str, values: Iterable[tuple[str, ...]], asked: set[str]) -> list[_Place]:
    pieces = [_token(piece) for piece in _PIECE.findall(_iso_dates(text))]
    longest, places, clause, i = sorted(values, key=len, reverse=True), [], set(), 0
    while i < len(pieces):
        if value := next((one for one in longest if tuple(pieces[i : i + len(one)]) == one), ()):
            unit = set(takewhile(_is_word, pieces[i + len(value) : i + len(value) + 2]))
            unit |= set(pieces[max(i - 1, 0) : i]) & {"dollar", "euro", "£", "¥"}
            places.append(_Place(value, unit, clause))
        elif pieces[i] in _BREAKS:
            clause = set() if clause - asked else set(clause)
        elif _is_word(pieces[i]):
            clause.add(pieces[i])
        i += max(len(value), 1)
    return places


def _wrong_role(answer: str, case, values: list[tuple[str, str]]) -> bool:
    asked, keys = _words(case.query), {}  # a value's tokens → the words of its keys
    for key, text in values:
        if (value := tuple(tokens(text))) and not count(case.query, text):
            keys.setdefault(value, set()).update(_words(re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", key)))
    gold = _places(case.answer, keys, asked)
    roles = {value: keys[value] - asked for value in keys}
    for one in gold:
        others = (other.clause for other in gold if other.clause is not one.clause)
        roles[one.value] = roles[one.value].union(one.clause - asked).difference(*others)
    places = _places(answer, keys, asked)
    for value, unit, clause in places:
        mine = [place for place in gold if place.value == value]
        others = [place for place in gold if place.value != value]
        role = roles[value] | keys[value]
        if re.fullmatch(r"-?[\d.]+", value[0]) and len(value) == 1:
            units = set().union(*(place.unit for place in mine or gold))
            if not mine:  # a value that the gold answer leaves out may be in its currency
                units -= set().union(*keys.values())
            if unit and not unit & (units | keys[value]):
                return True
            wanted = not unit or any(unit & place.unit for place in others)
        else:  # a code needs its role; a text or a time needs to be in no other value's
            wanted = mine and re.search(r"[A-Za-z]+-?\d", value[0])
            here = [place.value for place in places if place.clause is clause]
            strange = [roles[other.value] for other in others if other.value not in here]
            wanted = wanted or (mine and any(_meet(other, clause) for other in strange))
        stated = not mine or any(_meet(role, place.clause) for place in mine)
        if wanted and stated and not _meet(role, clause):
            return True
    return False
