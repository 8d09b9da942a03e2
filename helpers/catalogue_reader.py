"""Read data/catalogue/*.yaml into `Domain`s; whatever is wrong gives an error naming file, tool and field."""

import random
import re
from pathlib import Path

from helpers.catalogue_chains import read_chain
from helpers.catalogue_format import (
    CATALOGUE,
    JOIN,
    TYPES,
    Domain,
    Parameter,
    Request,
    Tool,
    check_keys,
    check_names,
    draw,
    fits,
    names_in,
    read_yaml,
    require,
    resolve,
)

MINIMUM = {"requests": 4, "answers": 2}  # phrasings per tool: fewer would teach the phrasing, not the task


def load_catalogue(folder: Path = CATALOGUE) -> tuple[list[Domain], dict[str, list[dict]], dict[str, dict]]:
    """All domains (by file name), the chat pairs of each language, and the small phrases of each language.

    Raises ValueError naming file, tool and field for a broken entry, FileNotFoundError for an empty folder.
    """
    files = sorted(Path(folder).glob("*_*.yaml"))
    if not files:
        raise FileNotFoundError(f"no catalogue in {folder}: expected files such as en_weather.yaml")
    chats = {path.name[:2]: read_chat(path) for path in files if path.stem.endswith("_chat")}
    domains = [read_domain(path) for path in files if not path.stem.endswith("_chat")]
    owner: dict[str, str] = {}
    for domain in domains:
        file = f"{domain.language}_{domain.name}.yaml"
        require(domain.language in chats, f"{file}: {domain.language}_chat.yaml is missing beside it")
        for tool in domain.tools:
            require(
                tool.name not in owner,
                f"{file}: tool {tool.name} is in {owner.get(tool.name)} too; rename one",
            )
            owner[tool.name] = file
    phrases = read_yaml(Path(folder) / "phrases.yaml")
    for language in chats:
        check_keys(
            phrases.get(language), "thought next opener follow_up refuse", "", f"phrases.yaml: {language}"
        )
    return domains, chats, phrases


def read_chat(path: Path) -> list[dict]:
    """Questions without a tool; `not_with` names domains whose tools would serve after all."""
    entries = read_yaml(path).get("chat")
    require(isinstance(entries, list) and entries, f"{path.name}: expected a list under `chat:`")
    for number, entry in enumerate(entries):
        check_keys(entry, "question answer", "not_with", f"{path.name}: chat[{number}]")
        for key in ("question", "answer"):
            check_names(entry[key], (), f"{path.name}: chat[{number}].{key}")
    return entries


def read_domain(path: Path) -> Domain:
    """One domain file. Raises ValueError naming file, tool and field."""
    content = read_yaml(path)
    check_keys(content, "domain language tools", "pools chains near", path.name)
    language, name = content["language"], content["domain"]
    require(
        path.stem == f"{language}_{name}", f"{path.name}: holds language {language} and domain {name}; rename"
    )
    require(language in JOIN, f"{path.name}: language {language!r} is none of {', '.join(JOIN)}")
    raw = content.get("pools") or {}
    require(isinstance(raw, dict), f"{path.name}: pools must be a mapping of names to lists")
    require(isinstance(content["tools"], list), f"{path.name}: tools must be a list")
    pools = {key: resolve(value, {}, f"{path.name}: pool {key}") for key, value in raw.items()}
    tools = tuple(read_tool(entry, pools, language, path.name) for entry in content["tools"])
    chains = tuple(
        read_chain(entry, tools, language, f"{path.name}: chains[{number}]")
        for number, entry in enumerate(content.get("chains") or ())
    )
    return Domain(language, name, tools, chains, tuple(content.get("near") or ()))


def read_tool(entry: dict, pools: dict, language: str, file: str) -> Tool:
    """One tool, checked. Raises ValueError naming file, tool and field."""
    where = f"{file}: tool {name_of(entry)}"
    check_keys(entry, "name description parameters requests result answers", "missing errors", where)
    require(
        re.fullmatch(r"[A-Za-z][\w-]*", str(entry["name"])),
        f"{where}: a tool name has letters, digits, _ and - only",
    )
    check_names(entry["description"], (), f"{where}, description")
    for key, least in MINIMUM.items():
        require(
            isinstance(entry[key], list) and len(entry[key]) >= least, f"{where}: needs {least} {key} or more"
        )
    require(
        isinstance(entry["result"], dict) and entry["result"], f"{where}: result must be a mapping of fields"
    )
    parameters = tuple(read_parameter(item, pools, where) for item in entry["parameters"] or ())
    known = {parameter.name: parameter for parameter in parameters}
    requests = tuple(
        read_request(item, known, f"{where}, requests[{i}]") for i, item in enumerate(entry["requests"])
    )
    result = {key: resolve(form, pools, f"{where}, result.{key}") for key, form in entry["result"].items()}
    needed = [parameter.name for parameter in parameters if parameter.required]
    for key, form in result.items():
        if isinstance(form, str):
            check_names(form, needed, f"{where}, result.{key}")
    missing = tuple(read_missing(item, known, where) for item in entry.get("missing") or ())
    errors = tuple(read_error(item, known, where) for item in entry.get("errors") or ())
    tool = Tool(
        entry["name"],
        entry["description"].strip(),
        parameters,
        requests,
        result,
        tuple(entry["answers"]),
        missing,
        errors,
    )
    check_answers(tool, language, where)
    return tool


def name_of(entry: object) -> object:
    """What an entry is called in an error: its name, or the entry itself when it is no mapping."""
    return entry.get("name") if isinstance(entry, dict) else repr(entry)


def read_parameter(entry: dict, pools: dict, where: str) -> Parameter:
    """One parameter; its values must have its type (YAML reads an unquoted 10:30 as a number)."""
    where = f"{where}, parameter {name_of(entry)}"
    check_keys(entry, "name type required description values", "", where)
    require(entry["type"] in TYPES, f"{where}: type {entry['type']!r} is none of {', '.join(TYPES)}")
    check_names(entry["description"], (), f"{where}, description")
    require(isinstance(entry["required"], bool), f"{where}: required must be true or false")
    values = resolve(entry["values"], pools, where)
    require(
        not isinstance(values, str), f"{where}: values must be a list, a $pool, a range, a code or a pick"
    )
    samples = values if isinstance(values, list) else [draw(values, random.Random(0), {}, "en")]
    for value in samples:
        require(
            fits(value, entry["type"]),
            f"{where}: value {value!r} is no {entry['type']}; quote it or mend the type",
        )
    return Parameter(entry["name"], entry["type"], entry["required"], entry["description"].strip(), values)


def read_request(entry: str | dict, known: dict[str, Parameter], where: str) -> Request:
    """One phrasing: a required parameter is in the text or under `set`; true and objects are under `set`."""
    entry = {"text": entry} if isinstance(entry, str) else entry
    check_keys(entry, "text", "set", where)
    check_names(entry["text"], known, where)
    request = Request(entry["text"].strip(), entry.get("set") or {})
    for name, value in request.fixed.items():
        require(
            name in known and name not in names_in(request.text),
            f"{where}: set.{name} is unknown or in the text",
        )
        require(fits(value, known[name].type), f"{where}: set.{name} is {value!r}, not a {known[name].type}")
    for name in names_in(request.text):
        require(
            known[name].type not in ("boolean", "object"),
            f"{where}: {{{name}}} is a {known[name].type}: use set",
        )
    lacking = [name for name in known if known[name].required and name not in request.names]
    require(not lacking, f"{where}: required {', '.join(lacking)} is neither in the text nor under set")
    return request


def read_missing(entry: dict, known: dict[str, Parameter], where: str) -> dict:
    """A request that leaves out a required parameter, and the question to ask back."""
    check_keys(entry, "text ask", "", f"{where}, missing")
    check_names(entry["text"], known, f"{where}, missing.text")
    check_names(entry["ask"], names_in(entry["text"]), f"{where}, missing.ask")
    lacking = [name for name in known if known[name].required and name not in names_in(entry["text"])]
    require(lacking, f"{where}, missing.text: {entry['text']!r} lacks no required parameter")
    return entry


def read_error(entry: dict, known: dict[str, Parameter], where: str) -> dict:
    """A failing result (a flat mapping) and the honest answer to it; both may name required parameters."""
    check_keys(entry, "result answer", "", f"{where}, errors")
    needed = [name for name in known if known[name].required]
    check_names(entry["answer"], needed, f"{where}, errors.answer")
    require(isinstance(entry["result"], dict), f"{where}, errors.result: expected a mapping")
    for form in entry["result"].values():
        if isinstance(form, str):
            check_names(form, needed, f"{where}, errors.result")
    return entry


def check_answers(tool: Tool, language: str, where: str) -> None:
    """Every answer states a drawn result field; every request has an answer that its arguments can fill."""
    drawn = {key for key, form in tool.result.items() if not isinstance(form, str)}
    spoken = {
        key for key in drawn if not isinstance(draw(tool.result[key], random.Random(0), {}, language), bool)
    }
    known = {parameter.name for parameter in tool.parameters} | set(tool.result) - (drawn - spoken)
    for number, answer in enumerate(tool.answers):
        check_names(answer, sorted(known), f"{where}, answers[{number}]")
        require(names_in(answer) & drawn, f"{where}, answers[{number}]: states no result field that is drawn")
    for request in tool.requests:
        fits_one = any(names_in(answer) <= request.names | set(tool.result) for answer in tool.answers)
        require(fits_one, f"{where}: no answer can be filled after {request.text!r}")
