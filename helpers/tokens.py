"""What the model reads and what it is graded on, token by token, taken from ms-swift's own template."""

import html
from dataclasses import dataclass
from functools import lru_cache

from helpers import assets
from helpers.corpus import SHAPES
from helpers.profiles import Profile


@dataclass(frozen=True)
class Token:
    """One token: its `text`, whether it is a label (`graded`), and the `weight` of its loss (0 where not graded)."""

    text: str
    graded: bool
    weight: float


def template_of(profile: Profile, shape: str, loss_scale: str | None = None):
    """ms-swift's template for a profile's tokenizer, in training mode, with a shape's agent template and loss scale.

    Args:
        loss_scale: another ms-swift loss scale than the shape's own ("react", "default", …).
    """
    from swift import get_template

    import helpers.swift_plugin  # noqa: F401  registers "agentfabric"

    template = get_template(_processor(profile.model, profile.model_type), template_type=profile.template,
                            max_length=8192, agent_template=SHAPES[shape].agent_template,
                            loss_scale=loss_scale or SHAPES[shape].loss_scale)
    template.set_mode("train")
    return template


@lru_cache(maxsize=2)
def _processor(model: str, model_type: str | None):
    from swift import get_processor

    return get_processor(str(assets.model_dir(model)), model_type=model_type)


def encode(row: dict, profile: Profile, shape: str, loss_scale: str | None = None) -> list[Token]:
    """A training row (from `corpus.render_rows`) as the tokens ms-swift trains on."""
    template = template_of(profile, shape, loss_scale)
    encoded = template.encode({key: row[key] for key in ("messages", "tools")})
    weights = encoded.get("loss_scale") or [1.0] * len(encoded["input_ids"])
    tokens, waiting = [], []
    for token, label, weight in zip(encoded["input_ids"], encoded["labels"], weights, strict=True):
        waiting.append(token)
        text = template.tokenizer.decode(waiting)
        if "\ufffd" not in text or len(waiting) > 4:  # a Chinese character may need several tokens: show them as one
            tokens.append(Token(text, label != -100, weight if label != -100 else 0.0))
            waiting = []
    return tokens


def budget(rows: list[dict], profile: Profile, shape: str, loss_scale: str | None = None) -> dict[str, int]:
    """What training rows hold: {"rows", "tokens" read, tokens that are "in the loss"}."""
    template, read, graded = template_of(profile, shape, loss_scale), 0, 0
    for row in rows:
        encoded = template.encode({key: row[key] for key in ("messages", "tools")})
        weights = encoded.get("loss_scale") or [1.0] * len(encoded["labels"])
        read += len(encoded["labels"])
        graded += sum(label != -100 and weight > 0 for label, weight in zip(encoded["labels"], weights, strict=True))
    return {"rows": len(rows), "tokens": read, "in the loss": graded}


def coloured(tokens: list[Token], tail: int | None = None) -> str:
    """Tokens as HTML: grey is read only, green counts once, dark green twice, red is a label whose weight is 0. The
    weight stands in each token's tooltip; `tail` shows only that many last tokens."""
    shown = tokens[-tail:] if tail else tokens
    spans = [f'<span title="weight {token.weight:g}" style="{_style(token)}">{_visible(token.text)}</span>'
             for token in shown]
    lead = f"… {len(tokens) - len(shown)} tokens before …<br>" if len(shown) < len(tokens) else ""
    return f'<div style="font-family:monospace;line-height:1.7;white-space:pre-wrap">{lead}{"".join(spans)}</div>'


def _style(token: Token) -> str:
    if not token.graded:
        return "color:#999"
    colour = "#f4b6b0" if token.weight == 0 else "#bfe3c6" if token.weight <= 1 else "#6fbf80"
    return f"background:{colour};color:#111;border-radius:3px;border-right:1px solid #fff"


def _visible(text: str) -> str:
    return html.escape(text).replace("\n", "⏎\n")
