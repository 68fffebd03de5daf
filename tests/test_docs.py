"""The documentation is complete and true: held to topics, structs, settings, commands, errors and constants."""

import argparse
import dataclasses
import importlib
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import msgspec
import pytest

import edge.__main__
import hub.__main__
from edge.settings import EdgeSettings
from hub.collect import ASK_EACH
from hub.options import SECTIONS
from hub.settings import HubSettings
from shared import errors, golden, ids, manifest, messages, policy, preprocess, topics
from shared.files import chunks, sha256_hex
from shared.messages import Event, HubStatus, Reply, decode, encode, encode_attached, split_attached
from shared.topics import ChunkTopic
from shared.transfer import Answer, Complete, Limits, Offer, Receiver, SendChunk, Sender, SendEvent
from shared.transfer.receiver import REMIND_AFTER
from shared.transfer.sender import PREVIEW_BYTES

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")], key=lambda path: path.as_posix()
)
CAMERA = "berlin/press-1"
REQUIRED = "required"


# --------------------------------------------------------------------------------------- reading markdown


def section(page: str, heading: str) -> str:
    """The text under a heading (given without #), up to the next heading of any depth; empty when there is none."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", page, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def rows(text: str) -> dict[str, list[str]]:
    """Table rows whose first cell is code: that code -> the other cells. Two rows of one name are an error."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [one.strip() for one in line.strip().strip("|").split("|")]
        if line.startswith("|") and (names := re.findall(r"`([^`]+)`", cells[0])):
            for name in names:
                assert name not in found, f"{name} has two rows"
                found[name] = cells[1:]
    return found


def code(cell: str) -> str:
    """A cell without its back-ticks."""
    return cell.strip("`")


def examples(page: str) -> list[tuple[str, str]]:
    """JSON blocks: (name of the struct, text)."""
    return re.findall(r"^```json ?(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# ------------------------------------------------------------------------------------------------ topics


def builders() -> list[str]:
    """Every function of shared.topics that builds a topic, by name."""
    public = inspect.getmembers(topics, inspect.isfunction)
    ours = [name for name, one in public if one.__module__ == topics.__name__ and name[0] != "_"]
    return [name for name in ours if name not in ("parse", "uploads", "states")]


def template(builder: str) -> str:
    """A builder's topic, with its parameters in braces."""
    function = getattr(topics, builder)
    names = {"camera": "{site}/{camera}", "event_id": "{event}"}
    return str(function(**{one: names.get(one, "{" + one + "}") for one in inspect.signature(function).parameters}))


def retained_by_docstring(builder: str) -> bool:
    return (getattr(topics, builder).__doc__ or "").startswith("Retained")


def test_the_builders_are_found() -> None:
    assert {*topics.CAMERA_LEAVES, "chunk", "hub_status", "hub_pulse", "release", "plan", "blob"} == set(builders())


@pytest.mark.parametrize("builder", builders())
def test_every_topic_has_a_row(builder: str) -> None:
    table = rows(section(PROTOCOL, "Topics"))
    assert template(builder) in table
    _, retained, qos, _ = table[template(builder)]
    assert retained == ("yes" if retained_by_docstring(builder) else "no")
    assert qos == ("0" if builder == "result" else "1")


def test_the_access_list_is_told() -> None:
    table = section(PROTOCOL, "Topics")
    rules = re.findall(r"^(?:pattern|topic) (?:read|write|readwrite) (\S+)", (ROOT / "mosquitto/acl").read_text(), re.M)
    assert len(rules) > 10
    for rule in rules:
        words = [one for one in rule.split("/") if one not in ("hone", "camera", "+", "%u", "#")]
        assert all(f"`{word}" in table or f"`hone/{word}" in table for word in words), rule


# ----------------------------------------------------------------------------------- structs, field by field


def structs(module: ModuleType) -> Iterator[type[msgspec.Struct]]:
    """The struct classes that a module defines and that travel."""
    for name, one in vars(module).items():
        ours = inspect.isclass(one) and issubclass(one, msgspec.Struct) and one.__module__ == module.__name__
        if ours and name[0] != "_" and one is not messages.Message:
            yield one


TRAVELLING = [one for module in (messages, manifest, golden, preprocess, policy) for one in structs(module)]
BY_NAME = {one.__name__: one for one in TRAVELLING}


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """A field's default as plain values, or REQUIRED."""
    if field.default is not msgspec.NODEFAULT:
        return msgspec.to_builtins(field.default)
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.to_builtins(field.default_factory())
    return REQUIRED


@pytest.mark.parametrize("kind", TRAVELLING, ids=lambda kind: kind.__name__)
def test_every_field_has_a_row_with_its_default(kind: type[msgspec.Struct]) -> None:
    table = {name: cells for name, cells in rows(section(PROTOCOL, kind.__name__)).items() if len(cells) == 3}
    fields = {one.encode_name: one for one in msgspec.structs.fields(kind)}
    assert set(table) == set(fields)
    for name, (type_text, default, meaning) in table.items():
        assert type_text
        assert meaning
        told = REQUIRED if default == REQUIRED else json.loads(code(default))
        told = tuple(told) if isinstance(default_of(fields[name]), tuple) else told  # JSON has no tuples
        assert told == default_of(fields[name]), name


def test_payload_types_are_told() -> None:
    types = [value for name, value in vars(manifest).items() if name.endswith("_TYPE")]
    assert len(types) == 4
    assert set(types) <= set(re.findall(r"`(application/[^`]+)`", section(PROTOCOL, "What a camera accepts")))


# ---------------------------------------------------------------------------------------------- constants


def constant(path: str) -> float:
    """The value of `package.module.NAME`, or `package.module.Class.field` by its default."""
    package, module, *names = path.split(".")
    value: Any = importlib.import_module(f"{package}.{module}")
    for name in names:
        value = getattr(value() if inspect.isclass(value) else value, name)
    return float(value)


def test_every_constant_has_a_row_with_its_value() -> None:
    table = rows(section(PROTOCOL, "Constants"))
    expected = {f"shared.transfer.Limits.{name}" for name in Limits.__dataclass_fields__}
    expected |= {
        "shared.transfer.sender.PREVIEW_BYTES",
        "shared.transfer.receiver.REMIND_AFTER",
        "hub.collect.ASK_EACH",
    }
    for path in ("shared.messages", "shared.manifest", "shared.golden", "shared.transfer", "edge.link"):
        for name, value in vars(importlib.import_module(path)).items():
            if name.isupper() and isinstance(value, int | float):
                expected.add(f"{path}.{name}")
    assert expected <= set(table)
    assert {name: float(value) for name, (value, *_) in table.items()} == {name: constant(name) for name in table}


def test_the_constants_of_previews_stand_where_a_camera_is_told_of_them() -> None:
    text = " ".join(section(PROTOCOL, "Previews").split())
    for wanted in (
        f"counts as {PREVIEW_BYTES} bytes of [credit]",
        f"{ASK_EACH} images of one camera at a time",
        f"{REMIND_AFTER:g} s without a chunk",
    ):
        assert wanted in text


# ----------------------------------------------------------------------------------------------- examples


def included(part: Any, whole: Any) -> bool:
    """Whether an example says nothing that its struct did not take over: a misspelt field would be ignored."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and included(part[name], whole[name]) for name in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(included, part, whole))
    return bool(part == whole)


@pytest.mark.parametrize(("name", "text"), examples(PROTOCOL))
def test_every_example_decodes_as_its_struct(name: str, text: str) -> None:
    decoded = msgspec.json.decode(text, type=BY_NAME[name], strict=True)
    assert included(json.loads(text), json.loads(msgspec.json.encode(msgspec.structs.asdict(decoded))))


def test_every_message_has_an_example() -> None:
    payloads = set(re.findall(r"\[(\w+)\]\(#\w+\)", section(PROTOCOL, "Topics"))) | {"Delegation"}
    assert len(payloads) == 13
    assert payloads <= {name for name, _ in examples(PROTOCOL)}


def exchange(name: str) -> list[Any]:
    """The messages of one kind in the worked exchange, in order."""
    text = section(PROTOCOL, "A whole exchange")
    return [msgspec.json.decode(one, type=BY_NAME[kind]) for kind, one in examples(text) if kind == name]


IMAGE = bytes(index % 251 for index in range(150_000))


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "plain"])
def test_the_exchange_is_what_both_ends_do(attached: bool) -> None:
    [event] = exchange("Event")
    assert isinstance(event, Event)
    replies: list[Reply] = exchange("Reply")
    beats: list[HubStatus] = exchange("HubStatus")
    if not attached:
        beats = [msgspec.structs.replace(one, attach=0) for one in beats]
    pieces = list(chunks(IMAGE, event.chunk_size))
    assert (event.size, event.sha256) == (len(IMAGE), sha256_hex(IMAGE))
    assert ids.event_id(event.time)[:13] == event.id[:13]

    sender = Sender(CAMERA.partition("/")[0])
    receiver = Receiver()
    sender.add(Offer(event.id, event.size, event.chunk_size, event.value))
    sender.connected()
    receiver.hello(CAMERA, 0.0)
    assert {one.credit for one in beats} == {receiver.first_credit}
    sender.hub(beats[0], 0.0, retained=True)
    assert sender.next(0.0) is None
    sender.hub(beats[1], 2.0, retained=False)

    assert sender.next(2.0) == SendEvent(event.id, follows=event.follows, attached=attached)
    text, first = split_attached(encode_attached(event, pieces[0]) if attached else encode(event))
    assert receiver.event(CAMERA, decode(text, Event), None, 2.0, first) == []
    if not attached:
        assert sender.next(2.0) == SendChunk(event.id, 0)
        assert receiver.chunk(CAMERA, event.id, 0, pieces[0], 2.0) == []
    assert [sender.next(2.0) for _ in range(3)] == [*(SendChunk(event.id, index) for index in (1, 2)), None]
    assert receiver.chunk(CAMERA, event.id, 2, pieces[2], 2.0) == [Answer(CAMERA, replies[0])]
    sender.reply(replies[0], 2.0)
    assert [sender.next(2.0), sender.next(2.0)] == [SendChunk(event.id, 1), None]
    assert receiver.chunk(CAMERA, event.id, 1, pieces[1], 2.0) == [Complete(CAMERA, event, IMAGE)]
    assert receiver.durable(CAMERA, [event.id]) == [Answer(CAMERA, replies[1])]
    assert sender.reply(replies[1], 2.0) == ([event.id], [])
    assert sender.idle


def test_the_topics_and_sizes_of_the_exchange_are_right() -> None:
    text = section(PROTOCOL, "A whole exchange")
    [event] = exchange("Event")
    named = set(re.findall(r"`(hone/[^`]+)`", text))
    parsed = [topics.parse(one) for one in named]
    assert {one.event for one in parsed if isinstance(one, ChunkTopic)} == {event.id}
    for piece in chunks(IMAGE, event.chunk_size):
        assert f"{len(piece)} bytes" in text


def test_the_signed_example_verifies() -> None:
    text = section(PROTOCOL, "Envelopes, byte by byte")
    found = dict(examples(text))
    root = re.search(r"^`([0-9a-f]{64})`:$", text, re.MULTILINE)
    assert root is not None
    told = msgspec.json.decode(found["Plan"], type=manifest.Plan)
    reader = manifest.Reader(root[1], told.project, CAMERA, told.created + timedelta(days=1), clock_trusted=True)
    assert manifest.open_signed(found["Signed"].encode(), manifest.PLAN_TYPE, manifest.Plan, reader).body == told
    stranger = dataclasses.replace(reader, root="0" * 64)
    with pytest.raises(errors.SignatureError):
        manifest.open_signed(found["Signed"].encode(), manifest.PLAN_TYPE, manifest.Plan, stranger)
    payload = found["Plan"].strip().encode()
    assert f"DSSEv1 {len(manifest.PLAN_TYPE)} {manifest.PLAN_TYPE} {len(payload)} {payload[:18].decode()}" in text


# ----------------------------------------------------------------------------------------------- attacks


def test_every_attack_is_told_with_its_test() -> None:
    source = (ROOT / "tests/edge/reload/test_attacks.py").read_text(encoding="utf-8")
    tests = re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    told = re.findall(r"`(test_\w+)`", (ROOT / "docs/security.md").read_text(encoding="utf-8"))
    assert sorted(told) == sorted(tests)


# ----------------------------------------------------------------------------------------------- settings


def settings_of(kind: type[msgspec.Struct], prefix: str = "", given: Any = None) -> Iterator[tuple[str, Any]]:
    """Every dotted key of a settings struct, through nested ones, with its default or REQUIRED."""
    for field in msgspec.structs.fields(kind):
        name = f"{prefix}{field.encode_name}"
        default = getattr(given, field.name) if given is not None else field.default
        kind = next((one for one in get_args(field.type) if inspect.isclass(one)), field.type)  # of `X | None`: X
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
            yield from settings_of(kind, f"{name}.", None if default is msgspec.NODEFAULT else default)
        elif given is None and default is msgspec.NODEFAULT:
            yield name, default_of(field)
        else:
            yield name, msgspec.to_builtins(default)


@pytest.mark.parametrize(
    ("heading", "kind", "marks"),
    [
        ("Settings of the hub", HubSettings, ("rollout.soak_s", "project.preprocess.size", "mqtt.ca")),
        ("Settings of a camera", EdgeSettings, ("camera", "spool.limit_mb", "mqtt.ca")),
    ],
    ids=["hub.toml", "edge.toml"],
)
def test_every_setting_has_a_row_with_its_default(
    heading: str, kind: type[msgspec.Struct], marks: tuple[str, ...]
) -> None:
    table = rows(section(OPERATIONS, heading))
    expected = dict(settings_of(kind))
    assert set(marks) <= set(expected)
    assert set(table) == set(expected)
    for name, (type_text, default, _unit, meaning) in table.items():
        assert type_text
        assert meaning
        told = REQUIRED if default == REQUIRED else tomllib.loads(f"x = {code(default)}")["x"]
        wanted = list(expected[name]) if isinstance(expected[name], tuple) else expected[name]
        assert told == wanted, name


def test_the_sections_that_change_while_the_hub_runs_are_named() -> None:
    [named] = re.findall(r"a run reads it anew\.\s+(.*?)\s+can\s+also be changed", OPERATIONS, re.DOTALL)
    assert re.findall(r"`(\w+)`", named) == list(SECTIONS)


def test_the_settings_files_in_the_text_are_accepted() -> None:
    """The indented examples of hub.toml and edge.toml: every key is one of ours, nothing required is missing."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", OPERATIONS, re.MULTILINE)
    files = [re.sub(r"^ {4}", "", one, flags=re.MULTILINE).strip() for one in blocks]
    [hub_toml] = [one for one in files if one.startswith('state = "') and "[project]" in one]
    [edge_toml] = [one for one in files if one.startswith('camera = "')]
    msgspec.toml.decode(hub_toml, type=HubSettings)
    assert "64 hex digits" in edge_toml
    msgspec.toml.decode(re.sub(r'root_key = ".*"', f'root_key = "{"0" * 64}"', edge_toml), type=EdgeSettings)


# ----------------------------------------------------------------------------------------------- commands


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command of both programs."""
    for parser in (hub.__main__._parser(), edge.__main__._parser()):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, command in action.choices.items():
                    yield f"{parser.prog} {name}", command


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_told(name: str) -> None:
    text = section(OPERATIONS, f"`{name}`")
    assert text, f"{name} has no section"
    options: dict[str, argparse.Action] = {}
    for action in COMMANDS[name]._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        long = [one for one in action.option_strings if one.startswith("--")]
        options.update(dict.fromkeys(long, action))
        if not action.option_strings:
            assert f"{action.dest.upper()}" in text, f"{name} takes {action.dest}"
        for choice in action.choices or ():
            assert f"`{choice}`" in text, f"{long} takes {choice}"
    table = {one: cells for one, cells in rows(text).items() if one.startswith("--")}
    assert set(table) == set(options)
    for one, (default, meaning) in table.items():
        assert meaning
        action = options[one]
        if action.required:
            assert default == REQUIRED
        elif action.default is False:
            assert default == "off"
        elif action.default not in (None, []):
            assert code(default) == str(action.default), one


def test_no_command_is_told_that_does_not_exist() -> None:
    told = set(re.findall(r"hone-(?:hub|edge) [a-z]+(?:-[a-z]+)*", re.sub(r"[ \n]+", " ", OPERATIONS)))
    assert told <= {*COMMANDS, "hone-hub hone-broker"}  # systemctl names two units in a row


# ------------------------------------------------------------------------------------------------- errors


def test_every_error_code_has_a_row() -> None:
    kinds = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.HoneError)]
    codes = {one("").code for one in kinds}
    for path in [*(ROOT / "edge").glob("*.py"), *(ROOT / "hub").glob("*.py")]:  # counted without an error class
        codes.update(re.findall(r"_errors\[\"(\w+)\"\]", path.read_text(encoding="utf-8")))
    assert {"hone", "hash_mismatch", "disk"} <= codes
    table = rows(section(OPERATIONS, "Error codes"))
    assert set(table) == codes
    assert all(len(cells) == 3 and all(cells) for cells in table.values())


# ------------------------------------------------------------------------------------------------- pages


def links(page: Path) -> list[str]:
    """Targets of the links of a page, without those into the net."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [one for one in found if "://" not in one and not one.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    return {slug(one) for one in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_path_of_somebodys_machine_is_told(page: Path) -> None:
    found = re.findall(r"(?<![\w.])/(?:work|home|root|tmp|Users|mnt)/\S*|[A-Z]:\\\S+", page.read_text(encoding="utf-8"))
    assert not found


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")
    records = sorted(path for path in (ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [path.name[:4] for path in records] == [f"{number:04d}" for number in range(1, len(records) + 1)]
    for path in records:
        title = path.read_text(encoding="utf-8").splitlines()[0]
        assert title.startswith(f"# {path.name[:4]}: ")
        assert f"[{path.name[:4]}]({path.name}) | {title.partition(': ')[2]} |" in listed


def test_the_units_start_commands_that_exist() -> None:
    units = sorted((ROOT / "deploy").glob("*.service"))
    assert units
    for unit in units:
        text = unit.read_text(encoding="utf-8")
        assert "Restart=always" in text
        assert "\nUser=" in text
        assert unit.name in OPERATIONS
        for line in re.findall(r"^Exec\w+=/opt/hone/bin/(.+)$", text, re.MULTILINE):
            program, command, *rest = line.split()
            parsed = COMMANDS[f"{program} {command}"].parse_args(rest)
            assert f"`{parsed.config}`" in OPERATIONS
