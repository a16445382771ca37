"""Reference of the configuration, from the descriptions that `layerwise explain` prints."""

from __future__ import annotations

from collections.abc import Iterator

from common.config import settings
from common.config.sections import Config
from deploy.guidance.explaining import OPTIONS, Description, describe, describe_options, find_page
from deploy.site.text import code, escape, sentence, table

PAGE = "reference/configuration.md"
_HEAD = """\
# Configuration

Every key of a run's TOML file, generated from the declarations. `layerwise config` prints the file with
all keys, `layerwise explain KEY` a key's entry below, and `--set section.key=value` overrides a key on the
command line. A key that the chosen method does not heed is refused.
"""


def render() -> str:
    """Render the page."""
    tables: dict[str, list[str]] = {}
    for name in settings.keys(Config):
        tables.setdefault(name.rpartition(".")[0], []).append(name)
    return "\n".join([_HEAD, *(part for title, names in tables.items() for part in _section(title, names))])


def _section(title: str, names: list[str]) -> Iterator[str]:
    yield f"## {title} {{ #{title} }}\n"
    yield f"[More about this section](../../{find_page(title)})\n"
    for name in names:
        yield from _key(describe(name))
        if name in OPTIONS:
            chooser, _ = OPTIONS[name]
            yield f"Options, by [{code(chooser)}](#{chooser}):\n"
            yield table(
                ["option", "default", "meaning", "value", f"with {code(chooser)}"],
                map(_option, describe_options(name)),
            )


def _key(key: Description) -> Iterator[str]:
    yield f"#### {code(key.name)} {{ #{key.name} }}\n"
    facts = [f"Default {code(key.default)}"]
    if key.value:
        facts.append(key.value)
    facts += [
        f"heeded with [{code(chooser)}](#{chooser}) = {' or '.join(map(code, values))}"
        for chooser, values in key.heeded.items()
    ]
    yield f"{escape(sentence(key.help))} {escape('; '.join(facts))}.\n"
    yield table(["value", "meaning"], ([code(name), escape(text)] for name, text in key.choices.items()))


def _option(key: Description) -> list[str]:
    assert key.chosen is not None
    value = key.value or ", ".join(f"`{name}` ({meaning})" for name, meaning in key.choices.items())
    name = key.name.rpartition(".")[2]
    chosen = ", ".join(map(code, key.chosen[1]))
    return [code(name), code(key.default), escape(key.help), escape(value), chosen]
