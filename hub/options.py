"""Options: the settings that can be changed while the hub runs, described from their structs. Pure.

A key is a dotted path through the structs, as in hub.toml: `train.folds`. Its documentation is what the docstring of
its struct says after `folds:`. The value of a key is replaced as a whole, also where it is a list or a table.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import isfinite
from typing import Any, Literal

import msgspec
from msgspec import inspect as types

from hub.settings import (
    DriftSettings,
    HubSettings,
    LabelSettings,
    RetrainSettings,
    RolloutSettings,
    SplitSettings,
    TrainSettings,
)
from shared.errors import SettingError
from shared.policy import TriageSettings

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "triage": TriageSettings,
    "label": LabelSettings,
    "train": TrainSettings,
    "split": SplitSettings,
    "drift": DriftSettings,
    "retrain": RetrainSettings,
    "rollout": RolloutSettings,
}
Kind = Literal["switch", "integer", "number", "text", "choice", "list", "texts", "json"]


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. kind: how a page asks for it; "list" is one of numbers, "texts" one of texts. allowed: in words.
    choices: for "choice". low, high: bounds of a number that are allowed themselves. default: as JSON knows it.
    """

    key: str
    section: str
    kind: Kind
    doc: str
    allowed: str
    default: Any
    choices: tuple[str, ...]
    low: float | None
    high: float | None
    type: Any


@cache
def options() -> dict[str, Option]:
    """Every setting that can be changed, by key, section by section."""
    return {one.key: one for name, kind in SECTIONS.items() for one in _of_struct(kind, name, name)}


def doc_of(kind: type[msgspec.Struct]) -> str:
    """The first sentence of a settings struct: what its section is about."""
    return _clean(inspect.getdoc(kind) or "").partition(". ")[0].rstrip(".")


def value_of(settings: HubSettings, key: str) -> Any:
    """The value of a key, as JSON knows it; a section that is None has its defaults."""
    section, *path = key.split(".")
    at: Any = getattr(settings, section)
    at = SECTIONS[section]() if at is None else at
    for name in path:
        at = getattr(at, name)
    return _json(at)


def refusal(wrong: Mapping[str, str]) -> SettingError:
    """The error that says of each key what is wrong and what is allowed."""
    return SettingError("; ".join(f"{key} {text}" for key, text in wrong.items()), fields=wrong)


def flatten(body: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings, {"train": {"folds": 3}} -> {"train.folds": 3}; SettingError names each key that is none."""
    known = options()
    found: dict[str, Any] = {}
    wrong: dict[str, str] = {}

    def walk(tree: Mapping[str, Any], prefix: str) -> None:
        for name, value in tree.items():
            key = f"{prefix}{name}"
            if key in known:
                found[key] = value
            elif isinstance(value, Mapping) and any(one.startswith(f"{key}.") for one in known):
                walk(value, f"{key}.")
            else:
                wrong[key] = _unknown(key)

    walk(body, "")
    if wrong:
        raise refusal(wrong)
    return found


def checked(key: str, value: Any) -> Any:
    """A value for a key, as JSON knows it; None: none, so that hub.toml decides. SettingError says what is allowed."""
    option = options().get(key)
    if option is None:
        raise refusal({key: _unknown(key)})
    if value is None:
        return None
    try:
        if not _finite(value):
            raise msgspec.ValidationError("no number")
        return _json(msgspec.convert(value, option.type, strict=True))
    except msgspec.ValidationError as error:
        raise refusal({key: f"is {_shown(value)}; allowed: {option.allowed}"}) from error


def applied(settings: HubSettings, values: Mapping[str, Any]) -> HubSettings:
    """Settings with other values of some keys, each of which was `checked`.

    SettingError when a struct refuses them together.
    """
    fresh: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        mine = {key: value for key, value in values.items() if key.startswith(f"{section}.")}
        if not mine:
            continue
        tree = _json(getattr(settings, section) or kind())
        for key, value in mine.items():
            *path, name = key.split(".")[1:]
            at = tree
            for one in path:
                at = at[one]
            at[name] = value
        try:
            fresh[section] = msgspec.convert(tree, kind, strict=True)
        except msgspec.ValidationError as error:
            raise refusal(dict.fromkeys(mine, f"does not go with the rest ({error})")) from error
    return msgspec.structs.replace(settings, **fresh)


def _of_struct(kind: type[msgspec.Struct], section: str, prefix: str) -> Iterator[Option]:
    docs = _docs(kind)
    described = {one.name: one.type for one in types.type_info(kind).fields}  # type: ignore[attr-defined]
    for field in msgspec.structs.fields(kind):
        key, info = f"{prefix}.{field.name}", described[field.name]
        if isinstance(info, types.StructType):
            yield from _of_struct(info.cls, section, key)
            continue
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        words = allowed(info)
        info = info.type if isinstance(info, types.Metadata) else info
        low, high = _bounds(info)
        yield Option(
            key=key,
            section=section,
            kind=_kind(info),
            doc=docs.get(field.name, ""),
            allowed=words,
            default=_json(default),
            choices=tuple(str(one) for one in info.values) if isinstance(info, types.LiteralType) else (),
            low=low,
            high=high,
            type=field.type,
        )


def _docs(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Field -> what the struct's docstring says after `field:` or `field, another:`, up to the next ones."""
    text = f". {_clean(inspect.getdoc(kind) or '')}"
    names = "|".join(one.name for one in msgspec.structs.fields(kind))
    marks = list(re.finditer(rf"(?<=[.;] )((?:{names})(?:, (?:{names}))*): ", text))
    ends = [*(one.start() for one in marks[1:]), len(text)]
    return {
        name: text[one.end() : end].strip(" ;")
        for one, end in zip(marks, ends, strict=True)
        for name in one[1].split(", ")
    }


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _kind(info: types.Type) -> Kind:
    match info:
        case types.BoolType():
            return "switch"
        case types.IntType():
            return "integer"
        case types.FloatType():
            return "number"
        case types.StrType():
            return "text"
        case types.LiteralType():
            return "choice"
        case types.Metadata():
            return _kind(info.type)
        case types.VarTupleType() | types.ListType() if _kind(info.item_type) in ("integer", "number"):
            return "list"
        case types.VarTupleType() | types.ListType() if _kind(info.item_type) == "text":
            return "texts"
        case types.TupleType() if {_kind(one) for one in info.item_types} <= {"integer", "number"}:
            return "list"
    return "json"


def allowed(info: types.Type) -> str:
    """What a type takes, in words."""
    match info:
        case types.BoolType():
            return "true or false"
        case types.IntType():
            return "whole number" + _range(info)
        case types.FloatType():
            return "number" + _range(info)
        case types.Metadata(extra_json_schema={"description": str(words)}):
            return words
        case types.Metadata():
            return allowed(info.type)
        case types.StrType(pattern=str(pattern)):
            return f"text that matches {pattern}"
        case types.StrType():
            return "text" + (f" of up to {info.max_length} characters" if info.max_length else "")
        case types.LiteralType():
            return "one of " + ", ".join(str(one) for one in info.values)
        case types.VarTupleType() | types.ListType():
            return f"list of {_count(info)}: each {allowed(info.item_type)}"
        case types.TupleType():
            return f"list of {len(info.item_types)}: {', '.join(map(allowed, info.item_types))}"
        case types.DictType():
            return f"table of {allowed(info.key_type)} = {allowed(info.value_type)}"
        case types.UnionType():
            return " or ".join(allowed(one) for one in info.types)
        case types.NoneType():
            return "null"
    return "JSON"


def _range(info: types.IntType | types.FloatType) -> str:
    low, high = _bounds(info)
    above = f" above {info.gt:g}" if info.gt is not None else ""
    below = f" below {info.lt:g}" if info.lt is not None else ""
    if low is not None and high is not None:
        return f" from {_plain(low)} to {_plain(high)}"
    if above and high is not None:
        return f"{above}, up to {_plain(high)}"
    if low is not None:
        return f", {_plain(low)} or more{below}"
    return above + below or (f", {_plain(high)} or less" if high is not None else "")


def _plain(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:g}"


def _count(info: types.VarTupleType | types.ListType) -> str:
    low, high = info.min_length or 0, info.max_length
    return f"{low} to {high}" if high is not None else f"{low} or more" if low else "any length"


def _bounds(info: types.Type) -> tuple[float | None, float | None]:
    return (info.ge, info.le) if isinstance(info, types.IntType | types.FloatType) else (None, None)


def _json(value: Any) -> Any:
    """Lists instead of tuples, tables instead of structs."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, float) else msgspec.json.encode(value, enc_hook=repr).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unknown(key: str) -> str:
    section = key.partition(".")[0]
    if section not in SECTIONS:
        return f"is no setting; allowed: those of {', '.join(SECTIONS)}"
    names = [one for one in options() if one.startswith(f"{section}.")]
    return f"is no setting; allowed: {', '.join(names)}"
