"""Split by tool, the four shapes, and files that appear only when complete."""

import hashlib
import json

import pytest
from conftest import call_message, tool
from hypothesis import given
from hypothesis import strategies as st

from helpers import agentfabric, assets, canonical, corpus, finetune, profiles, sources, splits, storage


def numbered(n):
    """A tool whose name and description are like no other number's."""
    return tool(f"t{n}", hashlib.sha256(b"%d" % n).hexdigest().translate(str.maketrans("0123456789", "ghijklmnop")))


def identities(rows):
    return {splits.tool_identity(one) for row in rows for one in
            (json.loads(row["tools"]) if isinstance(row["tools"], str) else row["tools"])}


@pytest.mark.parametrize("name", ["smoke", "laptop", "gpu"])
def test_no_tool_of_a_held_out_case_was_ever_in_a_training_prompt(name):
    data = finetune.prepare_data(profiles.get(name, source="authored"))
    assert identities(data["train"]).isdisjoint(identities(data["eval"]) | identities(data["cases"]))
    assert len(data["train"]) > 10 and 0.9 * profiles.get(name).visits <= len(data["cases"]) <= profiles.get(name).visits


def test_the_authored_split_loses_no_row_and_holds_out_a_share_of_each_language():
    rows, _ = sources.split_rejected(sources.read_rows(assets.dataset_file("authored")))
    split = splits.by_tool(rows)
    assert (len(split.train) + len(split.heldout) + len(split.similar), split.mixed) == (len(rows), [])
    assert 0 < len(split.similar) < 0.03 * len(rows)
    assert identities(split.train).isdisjoint(identities(split.heldout))
    for language in ("en", "zh"):
        parts = [sum(canonical.row_language(row) == language for row in part) for part in (split.train, split.heldout)]
        assert 0.1 < parts[1] / sum(parts) < 0.45
    assert split == splits.by_tool(rows), "the same seed draws the same split"


@given(st.lists(st.sets(st.integers(0, 12), min_size=1, max_size=3), min_size=1, max_size=25), st.integers(0, 3))
def test_any_split_is_disjoint_and_complete(prompts, seed):
    rows = [{"tools": [numbered(n) for n in sorted(names)]} for names in prompts]
    split = splits.by_tool(rows, 0.3, seed)
    assert identities(split.train).isdisjoint(identities(split.heldout))
    assert sum(map(len, (split.train, split.heldout, split.mixed, split.similar))) == len(rows)


def test_one_big_group_of_tools_is_split_singly_and_mixed_rows_are_set_aside():
    rows = [{"tools": [numbered(a), numbered(b)]} for a in range(12) for b in range(a)]
    split = splits.by_tool(rows, 0.3)
    assert split.train and split.heldout and split.mixed


def test_training_rows_that_read_like_a_held_out_one_are_left_out():
    def asking(query, description):
        return {"tools": [tool(description=description)], "messages": [{"role": "user", "content": query}]}

    heldout = [asking("When does train 4711 to Porto leave?", "Look up the timetable of a railway")]
    kept, left = splits.drop_similar([asking("when does train 12 to Porto leave", "Reserve a table"),
                                      asking("Is it raining?", "Look up the timetables of a railway."),
                                      asking("When does the museum open?", "Opening hours of a museum")], heldout)
    assert [len(kept), len(left)] == [1, 2] and kept[0]["messages"][0]["content"] == "When does the museum open?"


def test_the_in_distribution_split_is_a_share_of_the_rows():
    rows = [{"id": str(n), "tools": [tool()]} for n in range(300)]
    split = splits.in_distribution(rows)
    assert (len(split.train), len(split.heldout)) == (297, 3) and split == splits.in_distribution(rows)
    assert not any(row in split.train for row in split.heldout)
    assert identities(split.train) == identities(split.heldout), "its tools were all trained on"


def test_wire_rows_are_the_requests_of_the_openai_path(two_turns):
    call, chained, summary, thanks = corpus.render_rows([two_turns], "wire")
    prefix = "(. you can use tools: [book_hotel,get_time])"
    assert call["messages"][1]["content"] == prefix + "Book a hotel in Lisbon for 2 nights."
    assert call["messages"][2] == call_message("book_hotel", city="Lisbon", nights=2)
    fed = ('Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}\nObservation: <result>{"booking": "HB-7", '
           '"price": 80}</result>\nAnswer:')
    assert chained["messages"][1]["content"].endswith("nights." + fed)
    assert chained["messages"][2] == call_message("get_time", city="Lisbon")
    trace = fed + 'Action: get_time\nAction Input: {"city": "Lisbon"}\nObservation: <result>9:41</result>\nAnswer:'
    assert summary["messages"][1]["content"].endswith("nights." + trace)
    assert summary["messages"][2]["content"] == "HB-7; it is 9:41 there."
    assert [message["role"] for message in thanks["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert thanks["messages"][1]["content"] == "Book a hotel in Lisbon for 2 nights.", "history has no prefix"
    assert thanks["messages"][2]["content"] == trace + "HB-7; it is 9:41 there."
    assert thanks["messages"][3]["content"] == prefix + "Thanks!"


def test_the_runtime_reads_the_same_calls_back_from_wire_rows(two_turns):
    replies = [reply for _, reply in corpus.wire_requests(two_turns) if isinstance(reply, dict)]
    texts = [agentfabric.render_call(**reply) for reply in replies]
    read = [agentfabric.read_calls(text)[0] for text in texts]
    assert [{"name": call.name, "arguments": agentfabric.parse_arguments(call.arguments)} for call in read] == \
        canonical.calls_of(two_turns["messages"])


def test_trace_react_and_hermes(row):
    (trace,), (react,), (hermes,) = ([*corpus.render_rows([row], shape)] for shape in ("trace", "react", "hermes"))
    call = 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}\n'
    assert trace["messages"][2]["content"] == (
        call + 'Observation: <result>{"booking": "HB-7", "price": 80}</result>\nAnswer:Booked: HB-7, 80 euros.')
    assert react["messages"][1]["content"] == (
        call + 'Observation: {"booking": "HB-7", "price": 80}\nThought: I now know the final answer\n'
        "Final Answer: Booked: HB-7, 80 euros.")
    assert hermes["messages"] == row["messages"]


def test_a_file_appears_only_when_complete(tmp_path):
    def rows():
        yield {"a": "é"}
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        storage.write_jsonl(tmp_path / "deep" / "out.jsonl", rows())
    assert list((tmp_path / "deep").iterdir()) == []
    assert storage.write_jsonl(tmp_path / "out.jsonl", [{"a": "é"}]) == 1
    assert storage.read_jsonl(tmp_path / "out.jsonl") == [{"a": "é"}]
