"""Figures of the unlocks, as SVG: a row a layer, time to the right."""

from __future__ import annotations

from collections.abc import Iterator

from common.config.unlocks import UNLOCKS
from deploy.site.schedules import Message, Schedule, Span

_LAYERS, _UNTIL = 3, 20.0
_LEFT, _TOP, _UNIT, _BOX, _ROW = 70, 14, 32, 28, 60
_COLOURS = {"forward": "#b9d6ee", "backward": "#2f6fab", "learn": "#f2a65a"}
_LEGEND = (
    ("forward", "forward"),
    ("backward", "backward and step"),
    ("learn", "M and I learn"),
)
_WIDTH = int(_LEFT + (_UNTIL + 0.5) * _UNIT)
_BOTTOM = _TOP + _LAYERS * _ROW
_HEIGHT = _BOTTOM + 44


def name(unlock: str) -> str:
    """Return the file name of an unlock's figure."""
    return f"unlock-{unlock}.svg"


def draw(unlock: str) -> str:
    """Draw the first batches of three layers under an unlock."""
    row = UNLOCKS[unlock]
    schedule = Schedule(row, _LAYERS, _UNTIL)
    learns = row.synthesizes
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="13">',
        f"<title>Unlock {unlock}: when three layers compute</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="#fff"/>',
        '<clipPath id="window">'
        f'<rect x="{_LEFT}" y="0" width="{_WIDTH - _LEFT - 8}" height="{_BOTTOM}"/></clipPath>',
        *_rows(),
        '<g clip-path="url(#window)">',
        *map(_message, schedule.messages),
        *(part for span in schedule.spans for part in _span(span)),
        "</g>",
        *_legend(learns),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(time: float) -> float:
    return _LEFT + time * _UNIT


def _y(layer: int) -> float:
    """Return the top of a layer's boxes; the top layer is above."""
    return _TOP + (_LAYERS - layer) * _ROW + (_ROW - _BOX) / 2


def _rows() -> Iterator[str]:
    for layer in range(1, _LAYERS + 1):
        middle = _y(layer) + _BOX / 2
        yield f'<text x="8" y="{middle + 5:g}" fill="#333">layer {layer}</text>'
        yield (
            f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{middle:g}" y2="{middle:g}" stroke="#ddd" '
            'stroke-width="1"/>'
        )


def _span(span: Span) -> Iterator[str]:
    x, width = _x(span.start), (span.end - span.start) * _UNIT
    colour = "#fff" if span.kind == "backward" else "#222"
    yield (
        f'<rect x="{x:g}" y="{_y(span.layer):g}" width="{width:g}" height="{_BOX}" rx="3" '
        f'fill="{_COLOURS[span.kind]}" stroke="#fff"/>'
    )
    yield (
        f'<text x="{x + width / 2:g}" y="{_y(span.layer) + _BOX / 2 + 5:g}" text-anchor="middle" '
        f'fill="{colour}">{span.batch}</text>'
    )


def _message(message: Message) -> str:
    start = _y(message.layer) + (0 if message.up else _BOX)
    end = _y(message.receiver) + (_BOX if message.up else 0)
    dashes = "" if message.up else ' stroke-dasharray="4 3"'
    return (
        f'<line x1="{_x(message.sent):g}" y1="{start:g}" x2="{_x(message.arrived):g}" y2="{end:g}" '
        f'stroke="#777" stroke-width="1.3"{dashes}/>'
    )


def _legend(learns: bool) -> Iterator[str]:
    y, x = _BOTTOM + 12, float(_LEFT)
    for kind, text in _LEGEND:
        if kind != "learn" or learns:
            yield f'<rect x="{x:g}" y="{y}" width="16" height="16" rx="3" fill="{_COLOURS[kind]}"/>'
            yield f'<text x="{x + 22:g}" y="{y + 13}" fill="#333">{text}</text>'
            x += 40 + 7.2 * len(text)
    for text, dashes in (("h, upwards", ""), ("gradient, downwards", ' stroke-dasharray="4 3"')):
        yield (
            f'<line x1="{x:g}" x2="{x + 22:g}" y1="{y + 8}" y2="{y + 8}" stroke="#777" '
            f'stroke-width="1.3"{dashes}/>'
        )
        yield f'<text x="{x + 28:g}" y="{y + 13}" fill="#333">{text}</text>'
        x += 46 + 7.2 * len(text)
