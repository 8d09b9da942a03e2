"""Read and check chains: dialogues whose later calls use values of earlier observations."""

import random

from helpers.catalogue_format import (
    Tool,
    check_keys,
    check_names,
    draw,
    fill,
    fits,
    names_in,
    require,
    substitute,
)


def read_chain(entry: dict, tools: tuple[Tool, ...], language: str, where: str) -> dict:
    """A chain, run once on drawn values so that every name and type in it is known to be right."""
    check_keys(entry, "request calls answer", "", where)
    texts = {
        key: [entry[key]] if isinstance(entry[key], str) else entry[key] for key in ("request", "answer")
    }
    by_name = {tool.name: tool for tool in tools}
    for number, call in enumerate(entry["calls"]):
        check_keys(call, "tool arguments", "", f"{where}, calls[{number}]")
        require(call["tool"] in by_name, f"{where}: no tool {call['tool']} in this file")
    chain = {**texts, "calls": [(by_name[call["tool"]], call["arguments"]) for call in entry["calls"]]}
    require(len(chain["calls"]) > 1, f"{where}: a chain has two calls or more")
    pools = chain_pools(chain)
    for text in chain["request"]:
        check_names(text, sorted(pools), f"{where}, request")
    values = {name: draw(pools[name], random.Random(0), {}, language) for name in names_in(*chain["request"])}
    for number, (tool, arguments) in enumerate(chain["calls"], start=1):
        values |= check_call(tool, arguments, values, number, language, where)
    for text in chain["answer"]:
        check_names(text, sorted(values), f"{where}, answer")
        fill(text, values, language)
        require(
            any("." in name for name in names_in(text)),
            f"{where}, answer: states no result, such as {{2.price}}",
        )
    return chain


def check_call(tool: Tool, arguments: dict, values: dict, number: int, language: str, where: str) -> dict:
    """Names and types of one call of a chain. Returns its drawn result as {"<number>.<field>": value}."""
    known = {parameter.name: parameter for parameter in tool.parameters}
    lacking = {name for name in known if known[name].required} - set(arguments)
    require(
        not lacking and set(arguments) <= set(known),
        f"{where}: arguments of {tool.name} do not match its parameters",
    )
    for name, form in arguments.items():
        if isinstance(form, str):
            check_names(form, sorted(values), f"{where}, {tool.name}.{name}")
        value = substitute(form, values, language)
        require(
            fits(value, known[name].type), f"{where}, {tool.name}.{name}: {value!r} is no {known[name].type}"
        )
    filled = {name: substitute(form, values, language) for name, form in arguments.items()}
    return {
        f"{number}.{key}": draw(form, random.Random(0), filled, language) for key, form in tool.result.items()
    }


def chain_pools(chain: dict) -> dict:
    """Value form of each name that a chain's request may use: that of the first parameter of the name."""
    pools: dict = {}
    for tool, _ in chain["calls"]:
        for parameter in tool.parameters:
            pools.setdefault(parameter.name, parameter.values)
    return pools
