"""The rule for answers: examples by hand, gold answers, and its agreement with labels by hand."""

import pytest
from conftest import ROOT

from helpers import data, evaluate
from helpers.assets import judge
from helpers.convert import Turn

LABELS = ROOT / "data" / "judge_labels.jsonl"
FEE = ("A saxophone teacher?", {}, '{"teacher": "Amira Said", "hourly_fee": 25}')
FEE += ("Amira Said teaches for 25 euros an hour.",)
BLINDS = ("Blinds to 40 percent, please.", {}, '{"lux": 2181, "windows": 8}')
BLINDS += ("8 windows moved; the room now has 2181 lux.",)
ENERGY = ("Consumption of the attic, yesterday.", {}, '{"kwh": 222.3, "cost": 53.08}')
ENERGY += ("The meter shows 222.3 kWh, which cost 53.08 euros.",)
COUPON = ("Redeem it.", {}, '{"discount": 9.35, "new_total": 1071.5}')
COUPON += ("The code took off 9.35 euros; you now pay 1071.5 euros.",)
SHOPS = ("Best price?", {"shops": ["Oakline", "Nordlicht"]}, '{"best_price": 80}')
SHOPS += ("You pay 80 euros at the cheapest of them.",)
ORDER = ("Status of OR3 of Maya?", {}, '{"error": "order not shared"}')
ORDER += ("Maya does not share it, so I could not look.",)
TICKET = (
    "报修电灯",
    {},
    '{"ticket_no": "BX5051", "ahead": 13}',
    "已报修，单号BX5051，前面有13单。",
)
DONE = ("Light on.", {}, '{"ok": true}', "The light is switched on.")
EVENT = ("When is lunch?", {}, '{"date": "2025-04-07", "time": "16:25"}')
EVENT += ("Lunch is on 2025-04-07 at 16:25.",)

ANSWERS = [
    (FEE, "Amira Said charges 25 euros.", ""),
    (FEE, "Amira Said is 25 hours ahead of you.", "meaning"),
    (FEE, "Amira Said is 25 hours.", "wrong role"),
    (FEE, "Amira Said of Berlin charges 25 euros.", "invented"),
    (FEE, "Amira Said charges $25.", "wrong role"),
    (FEE, "Amira Said charges 250 euros.", "invented"),
    (FEE, "Amira Said.", "missing"),
    (FEE, "Amira Said charges 25 euros. I cannot obtain more.", "denies"),
    (FEE, "Amira Said does not teach for 25 euros.", "meaning"),
    (FEE, "Amira Said, Amira Said, Amira Said, 25 euros.", "loops"),
    (BLINDS, "8 windows were moved, and the room is at 2,181 lux.", ""),
    (BLINDS, "The room is 2181 percent of the window, 8 moved.", "wrong role"),
    (BLINDS, "The room has 2181 windows and 8 lux.", "wrong role"),
    (ENERGY, "The attic used 222.3 kilowatt-hours yesterday, and the cost was 53.08.", ""),
    (ENERGY, "The attic used 222.3 kWh last year and cost 53.08 euros.", "meaning"),
    (ENERGY, "The attic used 222 kWh and cost 53.08 euros.", "invented"),
    (COUPON, "The discount is 9.35 euros and the new total is 1,071.50 euros.", ""),
    (COUPON, "The discount is 1071.5 euros and the new total is 9.35 euros.", "wrong role"),
    (SHOPS, "The best price at Oakline and Nordlicht is 80 euros.", ""),
    (SHOPS, "The best price at Oakline is 80 euros.", "choice"),
    (ORDER, "The order is not shared.", ""),
    (ORDER, "Maya does not share her order.", ""),
    (ORDER, "The order is on its way.", "hides"),
    (ORDER, "The order is not shared. It costs 12 euros.", "invented"),
    (TICKET, "电灯已报修，单号是BX5051，前面还有13单。", ""),
    (TICKET, "电灯已报修，单号是BX5051，还要13天。", "wrong role"),
    (TICKET, "电灯昨天已报修，单号是BX5051，前面还有13单。", "meaning"),
    (DONE, "The light is on, it was switched.", ""),
    (DONE, "Enjoy your evening meal!", "meaning"),
    (DONE, "Sure!", "vague"),
    (EVENT, "Lunch is on April 7th, 2025 at 16:25.", ""),
    (EVENT, "Lunch is on 2025-04-07 at 16:52.", "invented"),
]


def case_of(query, arguments, result, gold):
    turn = Turn(query, [({"name": "tool", "arguments": arguments}, result)], gold)
    return evaluate.Case("", [], query, turn.calls, evaluate.marked_facts(turn), gold)


@pytest.mark.parametrize("case, answer, fault", ANSWERS)
def test_an_answer_fails_for_the_reason_that_is_wrong_with_it(case, answer, fault):
    assert judge.fault(answer, case_of(*case)) == fault


def test_what_an_earlier_turn_said_is_not_invented():
    case = case_of(*DONE)
    assert judge.fault("The light of Paul is switched on.", case) == "invented"
    earlier = ({"role": "user", "content": "I am Paul."},)
    case = evaluate.Case(*[getattr(case, key) for key in case.__match_args__[:-1]], earlier)
    assert judge.fault("The light of Paul is switched on.", case) == ""


def test_every_gold_answer_passes_and_most_with_swapped_facts_do_not():
    swapped = []
    for row in data.load("authored")[0][::4]:
        case = evaluate.case_of(row)
        if case.calls:
            assert judge.fault(case.answer, case) == "", case
        if case.calls and len(case.facts) > 1:
            one, other = case.facts[:2]
            answer = case.answer.replace(one, "\0").replace(other, one).replace("\0", other)
            swapped.append(judge.fault(answer, case) != "")
    assert sum(swapped) > 0.75 * len(swapped)


def test_the_rule_agrees_with_labels_made_by_hand():
    counts = {}
    for part in ("tune", "test", "fresh"):
        found = evaluate.judge_agreement(LABELS, part)
        counts[part] = [found[key] for key in ("tp", "fp", "fn", "tn")]
    assert counts["tune"] == [24, 1, 18, 86] and counts["test"] == [5, 0, 7, 44]
    # labelled after the rule was written: its precision is 60 % there, as README and lesson 05 say
    assert counts["fresh"] == [9, 6, 6, 30]
