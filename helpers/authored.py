"""data/general/*.yaml → data/general_authored.jsonl and data/self_cognition_authored.jsonl.

    python -m helpers.authored        writes both files anew

A file `<language>_<topic>.yaml` holds two lists, `train` and `heldout`, of dialogues; a dialogue is a list of turns:
question, answer, and so on in turn. The topic self_cognition gives rows in the form of swift/self-cognition.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

from helpers import assets, storage

FOLDER = assets.repo_root() / "data" / "general"


def authored_rows(folder: Path = FOLDER) -> dict[str, list[dict]]:
    """The rows that a folder's files spell out, training rows first.

    Returns {"general": rows of {"id", "lang", "topic", "split", "messages"}, "self_cognition": rows of {"id", "query",
    "response", "tag", "split"}}; the tag is the language, as in ModelScope's swift/self-cognition.

    Raises:
        ValueError: a file that is not written as described above; it is named.
    """
    rows = {"general": [], "self_cognition": []}
    for split in ("train", "heldout"):
        for path in sorted(folder.glob("*.yaml")):
            language, _, topic = path.stem.partition("_")
            for number, turns in enumerate(_dialogues(path, split), 1):
                key = f"{split}-{language}-{topic.replace('_', '-')}-{number:02}"
                if topic == "self_cognition":
                    rows[topic].append({"id": key, "query": turns[0], "response": turns[1], "tag": language,
                                        "split": split})
                else:
                    messages = [{"role": role, "content": turn} for role, turn in
                                zip(("user", "assistant") * (len(turns) // 2), turns, strict=True)]
                    rows["general"].append({"id": f"general-{key}", "lang": language, "topic": topic, "split": split,
                                            "messages": messages})
    return rows


def _dialogues(path: Path, split: str) -> Iterator[list[str]]:
    """The dialogues of one list of a file, checked."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get(split), list):
        raise ValueError(f"{path}: expected the two lists train and heldout")
    for number, turns in enumerate(content[split], 1):
        if not isinstance(turns, list) or not turns or len(turns) % 2 or not all(
                isinstance(turn, str) and turn.strip() for turn in turns):
            raise ValueError(f"{path}: {split}, dialogue {number}: expected a list of texts, question and answer in "
                             f"turn (quote what holds a colon), found {turns!r}")
        yield turns


if __name__ == "__main__":
    for name, rows in authored_rows().items():
        file = assets.dataset_file(name)
        print(f"{file.name}: {storage.write_jsonl(file, rows)} rows, {file.stat().st_size / 1000:.0f} kB")
