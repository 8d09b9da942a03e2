"""The real ModelScope-Agent, its RolePlay and the AgentFabric app, each in its own environment.

Those environments import this package, too: so it imports nothing here.
"""
