"""What a lesson writes out in full and what helpers hold is the same, on the same input."""

import ast
import json
from types import SimpleNamespace

import pytest
from conftest import ROOT

from helpers import (
    agent,
    agentfabric,
    assets,
    convert,
    data,
    evaluate,
    ms_agent,
    profiles,
    split,
    swift_plugin,
    train,
)
from helpers.study import original_script


def lesson(number):
    """The functions, constants and imports of a lesson, without running its other cells."""
    (path,) = (ROOT / "notebooks" / "text").glob(f"{number}_*.py")
    kept = []
    for node in ast.parse(path.read_text("utf-8")).body:
        constant = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").isupper()
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef) or constant:
            kept.append(node)
    names = {"json": json}
    for node in kept:
        try:
            exec(compile(ast.Module([node], []), path.name, "exec"), names)
        except NameError:  # a constant that follows from what the lesson computed before
            assert isinstance(node, ast.Assign)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def raw():
    return assets.read_jsonl(assets.dataset_file("authored"))


@pytest.fixture(scope="module")
def rows():
    return data.load("authored")[0]


def test_02_the_parser(raw):
    two = lesson("02")
    for row in raw:
        system, *turns = row["conversations"]
        assert two.read_tools(system["value"]) == ms_agent.parse_tools(system["value"])
        for turn in turns[1::2]:
            assert two.read_reply(turn["value"]) == ms_agent.parse_reply(turn["value"])


def test_02_the_wire_rendering(rows):
    two = lesson("02")
    english = [row for row in rows if "-en-" in row["id"]]
    for row in english:
        prompt = two.write_prompt(row["tools"], "Be kind.")
        assert prompt == agentfabric.system_prompt(row["tools"], "Be kind.", "en")
        if sum(message["role"] == "user" for message in row["messages"]) == 1:
            sent = []
            for messages, reply in convert.requests_of(row):
                reply = reply if isinstance(reply, str) else agentfabric.render_call(**reply)
                sent.append((messages[-1]["content"], reply))
            assert list(two.wire(row)) == sent


def test_02_the_original_script(raw):
    two = lesson("02")
    for row in raw:
        prompt = row["conversations"][0]["value"]
        tools = two.original_tools(prompt)
        assert tools == original_script.original_tools(prompt)
        written = original_script.process_system(prompt)
        assert all(two.original_line(tool) in written for tool in tools)


def test_03_the_mask(rows):
    three = lesson("03")
    scale = swift_plugin.AgentFabricLossScale()
    for row in convert.render_rows(rows, "trace"):
        for message in row["messages"]:
            if message["role"] == "assistant":
                parts, weights = scale.get_loss_scale(message["content"])
                theirs = [pair for pair in zip(parts, weights) if pair[0]]
                assert three.loss_weights(message["content"]) == theirs


def test_04_the_recipe(tmp_path):
    four = lesson("04")
    profile = four.profiles.get("smoke")
    ours = four.write_recipe(tmp_path / "recipe.yaml", profile, "train.jsonl", "eval.jsonl")
    theirs = train.recipe_of(profile)
    assert theirs.items() <= ours.items()


def test_05_the_episode_and_the_success_rule():
    five = lesson("05")
    run = train.Run(ROOT / "data" / "runs" / "laptop")
    rows = split.prepare_data(profiles.Profile(**run.manifest()["profile"]))["cases"]
    cases, found = {row["id"]: evaluate.case_of(row) for row in rows}, 0
    for score in (one for one in evaluate.kept_scores(run) if "episodes" in one):
        for kept in score["episodes"]:
            if kept["metrics"]["success"] is None:
                continue
            replies = iter([evaluate.step_of(step) for step in kept["transcript"]])

            def ask(messages, replies=replies):
                step = next(replies)
                reply = Reply(step.raw)
                reply.finished = step.finished
                return reply

            case = cases[kept["id"]]
            assert five.succeeded(case, *five.play(case, ask)) == kept["metrics"]["success"]
            found += 1
    assert found == 2 * sum(bool(case.calls) for case in cases.values())


class Reply(str):
    """A reply as `helpers.model` gives it."""

    finished = True


def test_06_the_tool_loop():
    six = lesson("06")
    replies = ['Action: calculator\nAction Input: {"expression": "2*3"}', "Observation", "It is 6."]
    for script in (replies[:1] * 10, [replies[0], replies[2]], replies[1:2]):
        tools = agent.schemas(["calculator", "get_weather"])
        theirs = drive(
            agent.episode(tools, "What?"), script, lambda s: (s.kind, s.messages, s.call)
        )
        ours = drive(six.tool_loop(tools, "What?"), script, lambda s: (s[0], s[1], s[1]))
        assert [one[0] for one in theirs] == [one[0] for one in ours]
        asked = [list(one[1]) for one in theirs if one[0] == "request"]
        assert asked == [one[1] for one in ours if one[0] == "request"]
        calls = [one[2] for one in theirs if one[0] == "call"]
        assert calls == [one[2] for one in ours if one[0] == "call"]


def drive(loop, script, read):
    """A loop driven to its end by a script of replies; every step as `read` gives it."""
    replies, steps = iter(script), [read(next(loop))]
    while steps[-1][0] in ("request", "call"):
        sent = next(replies) if steps[-1][0] == "request" else agent.execute(steps[-1][2])
        steps.append(read(loop.send(sent)))
    return steps
