"""AgentFabric's prompt and loss mask for ms-swift, loaded with `--external_plugins` (or by importing this module).

Registers the agent template "agentfabric" (so rows of `tools` + `messages` train and serve in AgentFabric's form) and
the loss scale "agentfabric" (calls count double, the observation not at all, the answer once). The texts come from
`helpers.agentfabric`: what is trained is what is sent.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # ms-swift imports this file by path, from anywhere

from swift.agent_template import BaseAgentTemplate, agent_template_map
from swift.loss_scale import ConfigLossScale, loss_scale_map

from helpers import agentfabric

# [weight of the keyword, weight of what follows it], as in ms-swift's react.json; `Answer:` is what react.json lacks.
# The last pattern-free part of a text (a bare answer) has weight 1.
LOSS_WEIGHTS = {"Action:": [2.0, 2.0], "Action Input:": [2.0, 2.0], "Observation:": [2.0, 0.0], "Answer:": [1.0, 1.0]}


class AgentFabricTemplate(BaseAgentTemplate):
    """AgentFabric's trace form: a call, `Observation: <result>…</result>`, `Answer:`, all in one assistant turn."""

    def _format_tools(self, tools, system=None, user_message=None) -> str:
        content = (user_message or {}).get("content") or ""
        language = agentfabric.language_of(f"{system or ''}{content}")
        return agentfabric.system_prompt(tools, system or agentfabric.DEFAULT_INSTRUCTION[language], language)

    def _format_tool_calls(self, tool_call_messages) -> str:
        calls = [self._parse_tool_call(message["content"]) for message in tool_call_messages]
        return "\n".join(agentfabric.render_call(call["name"], call["arguments"]) for call in calls)

    def _format_tool_responses(self, assistant_content, tool_messages):
        results = "".join(agentfabric.render_observation(message["content"]) for message in tool_messages)
        keyword = "\nObservation:"  # the model stops at it, so it is the model's to write; the rest is the runtime's
        return assistant_content + keyword, [results.removeprefix(keyword)]


class AgentFabricLossScale(ConfigLossScale):
    """The mask that the seed recipes describe: "the observation takes no part in the loss", and the answer does."""

    def __init__(self, base_strategy="default"):
        super().__init__(base_strategy)
        self.loss_scale_map = LOSS_WEIGHTS


agent_template_map["agentfabric"] = AgentFabricTemplate
loss_scale_map["agentfabric"] = AgentFabricLossScale
