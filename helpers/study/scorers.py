"""What the study asks every checkpoint, each scorer in the form of those in `evaluate.WHOLE`."""

import ast
import random

from helpers import convert, evaluate, ms_agent
from helpers.agentfabric import calls_of, parse_arguments, read_calls
from helpers.study import mix
from helpers.study.arms import BFCL_CATEGORIES
from helpers.study.formats import answer_rows
from helpers.tokens import template_of


def losses_of(model, rows: list[dict], adapter=None) -> list[dict]:
    """How well a `Model` expects training rows in wire format: each token after the right ones.
    [{"tokens": labels, "right": those that it would write, "nats": their summed negative log
    likelihood}], one for each row."""
    import torch

    engine = model.engine(str(adapter) if adapter else None)
    template, losses = template_of(model.profile, "wire"), []
    for row in rows:
        encoded = template.encode({key: row[key] for key in ("messages", "tools")})
        ids = torch.tensor([encoded["input_ids"]], device=engine.model.device)
        with torch.inference_mode():
            logits = engine.model(ids).logits[0, :-1]
        labels = torch.tensor(encoded["labels"])[1:]
        logits, labels = logits.float().cpu()[labels != -100], labels[labels != -100]
        nats = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        right = int((logits.argmax(-1) == labels).sum())
        losses.append({"tokens": len(labels), "right": right, "nats": nats})
    return losses


def score_episodes(rows, profile, model, checkpoint) -> list[dict]:
    """`evaluate.score_episodes`, as records keep it: [{"id", "metrics", "transcript"}]."""
    scores = evaluate.score_episodes(rows, profile, model, checkpoint)
    return [{key: one[key] for key in ("id", "metrics", "transcript")} for one in scores]


def score_bfcl(rows, profile, model, checkpoint) -> list[dict]:
    """`evaluate.score_bfcl` on the study's categories."""
    return evaluate.score_bfcl(rows, profile, model, checkpoint, BFCL_CATEGORIES)


def score_tokens(rows, profile, model, checkpoint) -> list[dict]:
    """Losses in wire format, with one mask for every arm, of two fixed files: the gold calls and
    answers of the first "cases", and "general" chat that is held out.
    [{"file", "id", "tokens", "right", "nats"}]; see `losses_of`."""
    general = mix.general("heldout", profile.languages)
    general = random.Random(0).sample(general, min(len(general), 8 * profile.eval_rows))
    found = []
    for file, chosen in {"cases": rows[: 3 * profile.eval_rows], "general": general}.items():
        asked = list(convert.render_rows(chosen, "wire"))
        losses = losses_of(model, asked, checkpoint.path)
        found += [{"file": file, "id": row["id"], **loss} for row, loss in zip(asked, losses)]
    return found


def score_answers(rows, profile, model, checkpoint) -> list[dict]:
    """Losses of the gold answers behind the gold calls and observations, in both forms of
    `answer_rows`: what a model knows of summarising, whether or not it would come to it.
    [{"place", "id", "tokens", "right", "nats"}]; see `losses_of`."""
    calling = [row for row in rows if calls_of(row["messages"])]
    asked = [pair for row in calling for pair in answer_rows(row).items()]
    losses = losses_of(model, [answer for _, answer in asked], checkpoint.path)
    return [{"place": place, "id": row["id"], **loss} for (place, row), loss in zip(asked, losses)]


def score_identity(rows, profile, model, checkpoint) -> list[dict]:
    """Held-out questions about the model itself, without tools; `rows` are not used.
    [{"id", "question", "reply", "right"}]: right if each name in the gold answer is there."""
    found, asked = [], mix.self_cognition("heldout", profile.languages)
    replies = model.ask([row["messages"][:1] for row in asked], checkpoint.path)
    for row, reply in zip(asked, replies):
        question, gold = (message["content"] for message in row["messages"])
        due = [name for name in (*mix.MODEL_NAME, *mix.MODEL_AUTHOR) if name in gold]
        right = all(name in reply for name in due)
        found.append({"id": row["id"], "question": question, "reply": reply, "right": right})
    return found


def score_native(rows, profile, model, checkpoint) -> list[dict]:
    """The first call of the calling cases, asked in ms_agent's own prompt: what a model can do that
    is asked as it was trained. [{"id", "reply", "tool_name", "full_call"}]."""
    cases = [case for case in map(evaluate.case_of, rows) if case.calls]
    systems = [{"role": "system", "content": ms_agent.render_tools(one.tools)} for one in cases]
    users = [{"role": "user", "content": case.query} for case in cases]
    replies = model.ask([list(pair) for pair in zip(systems, users)], checkpoint.path)
    return [
        {"id": case.id, "reply": reply, **judge_first(case, reply)}
        for case, reply in zip(cases, replies)
    ]


def judge_first(case: evaluate.Case, reply: str) -> dict[str, bool]:
    """{"tool_name", "full_call"} of the first call in a reply against the first gold call; its
    arguments may be a Python literal, too, as ms_agent writes them."""
    call, right = next(iter(read_calls(reply)), None), case.calls[0][0]
    named = call is not None and call.name == right["name"]
    given = (
        evaluate.read_value(call.arguments, parse_arguments, ast.literal_eval) if named else None
    )
    return {
        "tool_name": named,
        "full_call": named and evaluate.same_value(given, right["arguments"]),
    }


SCORERS = {"episodes": score_episodes, "bfcl": score_bfcl, "tokens": score_tokens}
SCORERS |= {"answers": score_answers, "identity": score_identity, "native": score_native}
