"""What ms-swift loads with `--external_plugins` (or by import): AgentFabric's prompt and loss mask.

Registers the agent template "agentfabric", with which rows of tools + messages train and serve in
AgentFabric's format, and the loss scale "agentfabric". The texts come from `helpers.agentfabric`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # ms-swift imports this by its path

from swift.agent_template import BaseAgentTemplate, agent_template_map
from swift.loss_scale import ConfigLossScale, loss_scale_map

from helpers import agentfabric

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


agent_template_map["agentfabric"] = AgentFabricTemplate
loss_scale_map["agentfabric"] = AgentFabricLossScale
