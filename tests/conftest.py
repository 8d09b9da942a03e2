"""Shared by all tests: the repository, the optional third-party material, small fixtures."""

import json
import os
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"  # genuine rows and requests; not in this repository

os.environ.setdefault("MPLBACKEND", "agg")
# Two test workers share two cores: a thread that waits sleeps, instead of keeping the other's core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("kit", deadline=None)  # a busy machine is no failure
settings.load_profile("kit")


@pytest.fixture
def shared():
    """The folder of third-party material; tests that want it are skipped where it is absent."""
    if not SHARED.exists():
        pytest.skip("needs the third-party test material, which is not part of the repository")
    return SHARED


def wait_for(condition, seconds=30):
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def gone(processes):
    """Whether all of these processes end within 30 seconds."""
    over = psutil.STATUS_ZOMBIE
    return wait_for(lambda: not [p for p in processes if p.is_running() and p.status() != over])


def tool(name="book_hotel", description="Reserve a hotel room.", required=("city",), **properties):
    """An OpenAI function schema."""
    properties = properties or {
        "city": {"type": "string", "description": "City of the hotel"},
        "nights": {"type": "integer", "description": "Number of nights"},
    }
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": list(required)},
        },
    }


def call_message(name, **arguments):
    """A canonical tool_call message."""
    return {
        "role": "tool_call",
        "content": json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False),
    }


@pytest.fixture
def row():
    """A canonical row: one user turn, one call, its observation, an answer."""
    return {
        "id": "r1",
        "tools": [tool()],
        "messages": [
            {"role": "user", "content": "Book a hotel in Lisbon for 2 nights."},
            call_message("book_hotel", city="Lisbon", nights=2),
            {"role": "tool_response", "content": '{"booking": "HB-7", "price": 80}'},
            {"role": "assistant", "content": "Booked: HB-7, 80 euros."},
        ],
    }


@pytest.fixture
def two_turns(row):
    """A canonical row of two user turns, the first with two chained calls."""
    second = [call_message("get_time", city="Lisbon"), {"role": "tool_response", "content": "9:41"}]
    return {
        "id": "r2",
        "tools": [
            tool(),
            tool("get_time", "Local time.", city={"type": "string", "description": "c"}),
        ],
        "messages": [
            *row["messages"][:3],
            *second,
            {"role": "assistant", "content": "HB-7; it is 9:41 there."},
            {"role": "user", "content": "Thanks!"},
            {"role": "assistant", "content": "You are welcome."},
        ],
    }
