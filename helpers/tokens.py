"""What the model reads and which tokens are in the loss, taken from ms-swift's own template."""

import html
from functools import lru_cache
from typing import NamedTuple

from helpers import assets
from helpers.convert import FORMATS
from helpers.profiles import Profile

# Tints of Okabe and Ito's colours, which colour-blind readers tell apart; in print the lines do it.
STYLES = {
    "masked": "color:#767676",
    "in the loss": "background:#d3e9f8;color:#111;border-bottom:2px solid #0072b2",
    "in the loss, twice": "background:#f5c156;color:#111;border-bottom:5px double #5c3d00",
    "weight 0": "background:repeating-linear-gradient(45deg,#f3c6b0 0 3px,#fff 3px 6px);color:#111",
}


class Token(NamedTuple):
    """One token. `in_loss`: it is a label, and counts `weight` times; else it is masked."""

    text: str
    in_loss: bool
    weight: float


def template_of(profile: Profile, format: str, loss_scale: str | None = None):
    """ms-swift's template for a profile's tokenizer in training mode, with the agent template and
    the loss scale of a format, or with another loss scale of ms-swift ("react", "default", …)."""
    from swift import get_template

    import helpers.swift_plugin  # noqa: F401  registers "agentfabric"

    processor, known = _processor(profile.model, profile.model_type), FORMATS[format]
    names = {"template_type": profile.template, "agent_template": known.agent_template}
    scale = loss_scale or known.loss_scale
    template = get_template(processor, **names, loss_scale=scale, max_length=8192)
    template.set_mode("train")
    return template


@lru_cache(maxsize=2)
def _processor(model: str, model_type: str):
    from swift import get_processor

    return get_processor(str(assets.model_dir(model)), model_type=model_type)


def _encode(template, row: dict) -> list[tuple[int, bool, float]]:
    """(token id, whether it is a label, its weight) for each token of a training row."""
    encoded = template.encode({key: row[key] for key in ("messages", "tools")})
    ids, labels = encoded["input_ids"], [label != -100 for label in encoded["labels"]]
    return list(zip(ids, labels, encoded.get("loss_scale") or [1.0] * len(ids), strict=True))


def encode(row: dict, profile: Profile, format: str, loss_scale: str | None = None) -> list[Token]:
    """A training row (from `convert.render_rows`) as the tokens that ms-swift trains on."""
    template, tokens, waiting = template_of(profile, format, loss_scale), [], []
    for token, label, weight in _encode(template, row):
        waiting.append(token)
        text = template.tokenizer.decode(waiting)
        # a Chinese character may take several tokens: they are shown as one
        if "\ufffd" not in text or len(waiting) > 4:
            tokens.append(Token(text, label, weight if label else 0.0))
            waiting = []
    return tokens


def count(rows: list[dict], profile: Profile, format: str, loss_scale: str | None = None) -> dict:
    """The size of training rows: {"rows", "tokens" read, tokens "in the loss"}."""
    template, tokens, in_loss = template_of(profile, format, loss_scale), 0, 0
    for row in rows:
        encoded = _encode(template, row)
        tokens += len(encoded)
        in_loss += sum(label and weight > 0 for _, label, weight in encoded)
    return {"rows": len(rows), "tokens": tokens, "in the loss": in_loss}


def coloured(tokens: list[Token], tail: int | None = None) -> str:
    """Tokens as HTML under a legend; their weights are tooltips. `tail` shows only that many."""
    span = '<span style="{}" title="weight {:g}">{}</span>'.format
    parts = [f'<span style="{style}">{name}</span>  ' for name, style in STYLES.items()]
    shown = tokens[-tail:] if tail else tokens
    hidden = len(tokens) - len(shown)
    parts.append(f"\n\n… {hidden} tokens before …\n" if hidden else "\n\n")
    for token in shown:
        name = "in the loss, twice" if token.weight > 1 else "in the loss"
        name = name if token.weight else "weight 0" if token.in_loss else "masked"
        text = html.escape(token.text).replace("\n", "⏎\n")
        parts.append(span(STYLES[name], token.weight, text))
    style = "font-family:monospace;line-height:1.8;white-space:pre-wrap"
    return f'<div style="{style}">{"".join(parts)}</div>'
