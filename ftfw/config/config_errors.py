"""Turns pydantic's errors into lines that an administrator can act on."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

SHOWN_LENGTH_MAX = 60

Location = tuple[str | int, ...]


class ConfigError(Exception):
    """Raised if the configuration cannot be used. One line per problem: file, key, what was found, what is accepted."""


def explain(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """Return one line for each problem in `error`, which the validation of `root`, a model of sections, raised."""
    problems = error.errors(include_url=False)
    # pydantic reports an array with a wrong element as too short as well, because it counts the right ones.
    return [_explain_one(one, root) for one in problems if one["type"] != "too_short" or not one["input"]]


def _explain_one(details: ErrorDetails, root: type[BaseModel]) -> str:
    location, model, siblings = _resolve(details["loc"], root)
    key = _toml_key(location)
    found = details["input"]
    match details["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; {_instead(str(location[-1]), model, siblings)}"
        case "union_tag_not_found" | "union_tag_invalid":
            tag = details["ctx"]["discriminator"].strip("'")
            seen = f"found {_shown(found[tag])}" if tag in found else "missing"
            return f"{key}.{tag}: {seen}; expected {_tags(siblings, tag)}"
        case "missing":
            return f"{key}: missing; expected {_accepted(location, model)}"
        case "too_short":
            return f"{key}: found {_shown(found)}; expected at least one of: {_accepted(location, model)}"
    return f"{key}: found {_shown(found)}; expected {_accepted(location, model)}"


def _resolve(location: Location, root: type[BaseModel]) -> tuple[Location, type[BaseModel], list[type[BaseModel]]]:
    """Return the location without pydantic's union tag, its last key's model, and that model's siblings."""
    section = root.model_fields.get(str(location[0]))
    if section is None or len(location) == 1:
        return location, root, [root]
    siblings = _models_in(section.annotation)
    if len(siblings) == 1:
        return location, siblings[0], siblings
    if len(location) == 2:
        return location, root, siblings
    tag = location[2]
    model = next(model for model in siblings if any(tag in _choices(model, name) for name in model.model_fields))
    return location[:2] + location[3:], model, siblings


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _choices(model: type[BaseModel], name: str) -> tuple[Any, ...]:
    return get_args(model.model_fields[name].annotation)


def _tags(models: list[type[BaseModel]], tag: str) -> str:
    return ", ".join(json.dumps(choice) for model in models for choice in _choices(model, tag))


def _toml_key(location: Location) -> str:
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def _instead(name: str, model: type[BaseModel], siblings: list[type[BaseModel]]) -> str:
    known = list(model.model_fields)
    if any(name in sibling.model_fields for sibling in siblings):
        return f"it belongs to another transport; expected {', '.join(known)}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}"


def _accepted(location: Location, model: type[BaseModel]) -> str:
    names = [part for part in location if isinstance(part, str)]
    field = model.model_fields[names[-1]]
    if field.description:
        return field.description
    if get_args(field.annotation):
        return f"tables, each headed [[{names[-1]}]]"
    return f"a table, headed [{names[-1]}]"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    try:
        shown = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):  # larger or deeper than Python converts to text
        return "something too large to show"
    return shown if len(shown) <= SHOWN_LENGTH_MAX else f"{shown[:SHOWN_LENGTH_MAX]}…"
