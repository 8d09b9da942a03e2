"""What ms-swift loads with `--external_plugins` (or by import): AgentFabric's prompt and loss mask,
and packs: rows that share their prompt, trained as one sequence.

Registers the agent template "agentfabric", with which rows of tools + messages train and serve in
AgentFabric's format, and the loss scale "agentfabric". The texts come from `helpers.agentfabric`.
Makes the chat templates of the profiles read packs (see `SharedPrefix`); other rows stay as they
are.
"""

import os.path
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # ms-swift imports this by its path

from swift.agent_template import BaseAgentTemplate, agent_template_map
from swift.loss_scale import ConfigLossScale, loss_scale_map
from swift.template import TEMPLATE_MAPPING

from helpers import agentfabric
from helpers.assets.attention import visible  # and the recipe's attn_impl: "shared_prefix"
from helpers.convert import split_pack

# [weight of the keyword, weight of what follows it], as in ms-swift's react.json, which lacks
# `Answer:`. Text without a keyword has weight 1.
LOSS_WEIGHTS = {"Action:": [2.0, 2.0], "Action Input:": [2.0, 2.0]}
LOSS_WEIGHTS |= {"Observation:": [2.0, 0.0], "Answer:": [1.0, 1.0]}


class AgentFabricTemplate(BaseAgentTemplate):
    """The trace format: call, `Observation: <result>…</result>` and `Answer:` in one turn."""

    def _format_tools(self, tools, system=None, user_message=None) -> str:
        content = (user_message or {}).get("content") or ""
        language = agentfabric.language_of(f"{system or ''}{content}")
        instruction = system or agentfabric.DEFAULT_INSTRUCTION[language]
        return agentfabric.system_prompt(tools, instruction, language)

    def _format_tool_calls(self, tool_call_messages) -> str:
        calls = [self._parse_tool_call(message["content"]) for message in tool_call_messages]
        return "\n".join(agentfabric.render_call(call["name"], call["arguments"]) for call in calls)

    def _format_tool_responses(self, assistant_content, tool_messages):
        contents = (message["content"] for message in tool_messages)
        results = "".join(map(agentfabric.render_observation, contents))
        keyword = "\nObservation:"  # the model writes it and stops; the rest is the runtime's
        return assistant_content + keyword, [results.removeprefix(keyword)]


class AgentFabricLossScale(ConfigLossScale):
    """Calls count twice, the observation not at all, the answer once: the documents say that "the
    observation takes no part in the loss"."""

    def __init__(self, base_strategy="default"):
        super().__init__(base_strategy)
        self.loss_scale_map = LOSS_WEIGHTS


class SharedPrefix:
    """A chat template that also reads a pack (`convert.packed`): dialogues with the same prompt.

    Their tokens become one sequence: the prefix that all share, once, then a branch for each. A
    branch's positions go on from the prefix, and it sees the prefix and itself. So each dialogue is
    computed exactly as if it stood alone, and the prompt is computed once instead of once for each.
    """

    def encode(self, inputs, **options) -> dict:
        """As ms-swift's; a pack gets `position_ids`, and `branches`: 0 in the prefix, then 1, 2, …
        for each token. Its loss is that of a batch of its dialogues."""
        dialogues = split_pack(inputs["messages"]) if isinstance(inputs, dict) else []
        encode = super().encode
        if len(dialogues) < 2:
            return encode(inputs, **options)
        rows = [encode({**inputs, "messages": one}) for one in dialogues]
        shared = len(os.path.commonprefix([row["input_ids"] for row in rows]))
        # A label is predicted at the token before it, so that one has to stand in its own branch.
        first_label = min(next(i for i, x in enumerate(row["labels"]) if x != -100) for row in rows)
        shared = min(shared, first_label - 1)
        keys = [key for key in ("input_ids", "labels", "loss_scale") if rows[0].get(key)]
        pack = {key: rows[0][key][:shared] for key in keys}
        pack |= {"position_ids": list(range(shared)), "branches": [0] * shared}
        for number, row in enumerate(rows, 1):
            for key in keys:
                pack[key] = pack[key] + row[key][shared:]
            pack["position_ids"] += range(shared, len(row["input_ids"]))
            pack["branches"] += [number] * (len(row["input_ids"]) - shared)
        if options.get("return_length"):
            pack["lengths"] = [len(pack["input_ids"])]
        return pack

    def _data_collator(self, batch: list[dict], **options) -> dict:
        """ms-swift's batch; where it holds packs, their mask has the shape (batch, 1, n, n)."""
        branches = [row.pop("branches", None) for row in batch]
        if not any(branches):
            return super()._data_collator(batch, **options)
        for row in batch:  # a plain row beside packs is all prefix
            row.setdefault("position_ids", list(range(len(row["input_ids"]))))
        inputs = super()._data_collator(batch, **options)
        branches = [one or [0] * len(row["input_ids"]) for one, row in zip(branches, batch)]
        length = inputs["input_ids"].shape[1]
        masks = [visible(one, length) for one in branches]
        inputs["attention_mask"] = torch.stack(masks)[:, None]  # the same for all heads
        if len(batch) == 1:  # no padding
            inputs["starts"] = [branches[0].index(one) for one in range(1, branches[0][-1] + 1)]
        return inputs


for _name in ("chatml", "qwen", "qwen3"):  # the chat templates of the profiles
    _meta = TEMPLATE_MAPPING[_name]
    _meta.template_cls = type("SharedPrefixTemplate", (SharedPrefix, _meta.template_cls), {})
agent_template_map["agentfabric"] = AgentFabricTemplate
loss_scale_map["agentfabric"] = AgentFabricLossScale
