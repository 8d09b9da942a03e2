"""Record what AgentFabric and a model say, and make rows of it: `python -m helpers.record`."""
