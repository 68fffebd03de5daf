"""hone-hub: the hub's program."""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from hub import keeping
from shared import heap
from shared.clock import SystemClock
from shared.crash import Watch
from shared.errors import ConfigError, HoneError, SettingError

EPILOG = """\
A first look, on this machine alone, with real images:      hone-hub demo
A real hub, step by step:
  hone-hub keys   --config hub.toml      make the keys; prints the root_key for the cameras
  hone-hub broker --config hub.toml --camera SITE/NAME ...   write a mosquitto configuration
  hone-hub import --config hub.toml --split train FOLDER     first images, a folder per class
  hone-hub import --config hub.toml --split holdout FOLDER   images to prove releases on
  hone-hub serve  --config hub.toml      collect, label page, retrain, release
docs/operations.md has every key of hub.toml, and the systemd units.
"""

Command = Callable[[argparse.Namespace], int]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _demo(arguments: argparse.Namespace) -> int:
    from hub.demo import Story, run

    return run(
        Story(
            state=arguments.state,
            seed=arguments.seed,
            once=arguments.once,
            name=arguments.story,
            label=arguments.label,
            frames=arguments.frames,
            port=arguments.port,
        )
    )


def _until_asked() -> tuple[list[object], Watch]:
    """What grows when SIGINT, SIGTERM or the death of a thread asks this process to end."""
    # No Event: a signal handler that sets one can wait for a lock of its own thread.
    asked: list[object] = []
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: asked.append(True))
    watch = Watch(lambda: asked.append(True))
    watch.install()
    return asked, watch


def _serve(arguments: argparse.Namespace) -> int:
    from hub.daemon import Daemon
    from hub.settings import find_config, read
    from hub.store import open_store
    from hub.web.app import create_app
    from hub.web.serve import WebServer

    asked, watch = _until_asked()
    config = find_config(arguments.config).resolve()
    settings = read(config)
    clock = SystemClock()
    with closing(open_store(settings)) as store:
        daemon = Daemon(settings, config, store, clock)
        page = WebServer(create_app(settings, store, daemon.desk, daemon, clock), settings.web.host, settings.web.port)
        heap.settle()
        daemon.start()
        page.start()
        _say(f"hub {settings.name} of project {settings.project.name}: {page.url}")
        sys.stdout.flush()
        while not asked and daemon.error is None:
            time.sleep(0.1)
        page.stop()
        daemon.stop()
    if daemon.error is not None:
        raise daemon.error
    return 1 if watch.happened else 0


def _collect(arguments: argparse.Namespace) -> int:
    from hub.outpost import Outpost, settings_for
    from hub.settings import find_config, read
    from hub.store import open_store

    asked, watch = _until_asked()
    settings = settings_for(read(find_config(arguments.config)), arguments.site, arguments.name)
    with closing(open_store(settings)) as store:
        outpost = Outpost(settings, arguments.site, store, SystemClock(), only=arguments.only)
        heap.settle()
        outpost.start()
        _say(f"collector {settings.name} of project {settings.project.name}: {', '.join(arguments.site)}")
        sys.stdout.flush()
        while not asked and outpost.error is None:
            time.sleep(0.1)
        outpost.stop()
    if outpost.error is not None:
        raise outpost.error
    return 1 if watch.happened else 0


def _train(arguments: argparse.Namespace) -> int:
    from sqlmodel import col, select

    from hub.policies import Policies
    from hub.repeat import again, resume
    from hub.run import execute
    from hub.settings import find_config, read
    from hub.store import open_store
    from hub.tables import Run

    file, clock = read(find_config(arguments.config)), SystemClock()
    store = open_store(file)
    settings = Policies(file, store, clock).now()
    run_id = arguments.run
    if arguments.again is not None:
        run_id = again(settings, store, arguments.again, clock)
    elif arguments.resume is not None:
        resume(settings, store, run_id := arguments.resume)
    if run_id is None:
        with store.write() as session:
            run = Run(project=settings.project.name, why=arguments.why, created_at=clock.utc())
            session.add(run)
            session.flush()
            run_id = run.id
    execute(settings, store, run_id, clock)
    with store.read() as session:
        run = session.exec(select(Run).where(col(Run.id) == run_id)).one()
        old = session.get(Run, arguments.again) if arguments.again is not None else None
    auc = (run.evaluation.get("auc") or {}).get("value")
    _say(f"run {run_id}: {run.verdict} ({run.reason})" + (f", AUC {auc:.3f} on the holdout" if auc else ""))
    if old is None:
        return 0
    differ = [name for name in sorted({*run.parts, *old.parts}) if run.parts.get(name) != old.parts.get(name)]
    versions = [f"{name} {one}" for name, one in old.versions.items() if run.versions.get(name) != one]
    if not differ:
        _say(f"the same as run {old.id}, bit by bit")
        return 0
    _say(f"not the same as run {old.id}: {', '.join(differ)}; that had {', '.join(versions) or 'the same versions'}")
    return 1


def _page(arguments: argparse.Namespace, method: str, path: str, body: dict[str, object] | None) -> dict[str, object]:
    """Ask the running hub; only it signs and publishes."""
    import json
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    from hub.settings import find_config, read
    from shared.errors import StoreError

    web = read(find_config(arguments.config)).web
    if not web.port:
        raise ConfigError("web.port is 0, so the hub's page has no fixed address", remedy="Set it in hub.toml")
    url = f"http://{f'[{web.host}]' if ':' in web.host else web.host}:{web.port}{path}"
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=30) as answer:
            result: dict[str, object] = json.load(answer)
            return result
    except HTTPError as error:
        try:
            said = str(json.load(error)["message"])
        except (ValueError, KeyError, TypeError):
            said = str(error)
        raise StoreError(said, subject=path) from error
    except (URLError, OSError) as error:
        raise StoreError(f"no hub answers ({error})", subject=url, remedy="Start it: hone-hub serve") from error


def _release(arguments: argparse.Namespace) -> int:
    answer = _page(arguments, "POST", "/api/releases", {"run": arguments.run, "note": arguments.note})
    _say(f"release {answer['id']} is on its way")
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from hub.cards import card_of
    from hub.cardtext import markdown
    from hub.policies import Policies
    from hub.settings import find_config, read
    from hub.store import open_store
    from shared.errors import StoreError

    file = read(find_config(arguments.config))
    with closing(open_store(file)) as store:
        card = card_of(Policies(file, store, SystemClock()).now(), store, arguments.release)
    if card is None:
        raise StoreError("does not exist", subject=f"release {arguments.release}", remedy="The page lists releases")
    _say(card.model_dump_json(indent=2) if arguments.json else markdown(card).rstrip())
    return 0


def _export_model(arguments: argparse.Namespace) -> int:
    from hub.handout import Format, handout, parts_of
    from hub.policies import Policies
    from hub.settings import find_config, read
    from hub.store import open_store
    from shared.errors import StoreError
    from shared.files import write_atomic

    wanted: dict[Format, Path | None] = {
        "tflite": arguments.out,
        "onnx": arguments.onnx,
        "safetensors": arguments.safetensors,
    }
    if not any(wanted.values()):
        raise ConfigError("says no file", subject="export-model", remedy="Give --out, --onnx or --safetensors")
    file = read(find_config(arguments.config))
    with closing(open_store(file)) as store:
        parts = parts_of(Policies(file, store, SystemClock()).now(), store, arguments.release)
    for kind, path in wanted.items():
        if path is not None:
            made = handout(parts, kind)
            try:
                write_atomic(path, made.data)
            except OSError as error:
                raise StoreError(f"cannot be written ({error.strerror})", subject=str(path)) from error
            _say(
                f"release {parts.number} written to {path}, {len(made.data)} bytes; on {made.images} golden images its "
                f"probabilities are within {made.difference:.1e} of the release's"
            )
    return 0


def _settings(arguments: argparse.Namespace) -> int:
    from hub.options import options, value_of
    from hub.policies import Policies
    from hub.settings import find_config, read
    from hub.store import open_store

    file = read(find_config(arguments.config))
    store = open_store(file)
    policies = Policies(file, store, SystemClock())
    asked: dict[str, object] = {}
    for one in arguments.setting:
        key, given, text = one.partition("=")
        if given:
            asked[key] = _value(text)
        elif key not in options():
            raise SettingError(f"{key!r} is no setting", remedy="Without arguments the command lists them")
    asked |= dict.fromkeys(arguments.clear)
    if asked:
        policies.set(asked, operator=arguments.by)
    now = policies.in_force()
    shown = [one.partition("=")[0] for one in arguments.setting] + arguments.clear
    for key in shown or options():
        option, value = options()[key], value_of(now.settings, key)
        _say(f"{key} = {_text(value)}   # {now.source(key, file)}; {option.allowed}")
        if shown:
            _say(f"    {option.doc}")
    store.close()
    return 0


def _value(text: str) -> object:
    """A value as it would stand in hub.toml; what is none there counts as text."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _text(value: object) -> str:
    """A value as hub.toml would have it: JSON is the same for all that settings hold, but for tables."""
    import json

    return json.dumps(value, ensure_ascii=False)


def _fsck(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from hub.fsck import check
    from hub.quarantine import Quarantine
    from hub.settings import find_config, read
    from hub.store import open_store

    config = find_config(arguments.config)
    settings, clock = read(config), SystemClock()
    store = open_store(settings)
    quarantine = Quarantine(settings.state_folder, clock) if arguments.repair else None
    count = wrong = records = size = 0
    with Progress() as bar:
        task = bar.add_task("checking", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        for finding in check(store, clock, deep=arguments.deep, quarantine=quarantine, progress=show):
            count += 1
            wrong += not finding.mended
            records += finding.kind == "garbage"
            size += finding.size
            bar.console.print(
                f"{finding.kind}: {finding.subject}: {finding.text}", soft_wrap=True, markup=False, highlight=False
            )
    store.close()
    found = f"{count} findings, {wrong} of them wrong still" if count else "nothing found, rows and blobs agree"
    if records:
        found += f"; {records} records of {size} bytes in segments are garbage (harmless)"
    _say(f"{config}: {found}")
    return 1 if wrong else 0


def _import(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from hub.formats import Bad
    from hub.importer import import_folder, import_rows, read_list
    from hub.settings import find_config, read
    from hub.store import open_store

    settings = read(find_config(arguments.config))
    if arguments.empty and arguments.empty not in settings.project.classes:
        raise ConfigError(f"--empty {arguments.empty} is not one of {', '.join(settings.project.classes)}")
    if arguments.format == "folder" and arguments.split is None:
        raise ConfigError("--split is required for a folder per class", remedy="Give --split train, or holdout")
    with Progress() as bar:
        task = bar.add_task("importing", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        clock, path, split = SystemClock(), arguments.folder, arguments.split
        if arguments.format == "folder":
            store = open_store(settings)
            added, known = import_folder(settings, store, path, split, clock, progress=show)
            bad: list[Bad] = []
        else:
            rows, bad = read_list(arguments.format, path, arguments.empty)
            base = arguments.images or path.parent
            store = open_store(settings)
            done = import_rows(settings, store, rows, base, clock, split=split or "", progress=show)
            added, known = done.added, done.known
            bad = [*bad, *done.bad]
    store.close()
    for one in bad:
        _say(f"not imported: {one.where}: {one.why}")
    where = f" to {split}" if split else ""
    _say(f"{added} images added{where}, {known} were there already" + (f", {len(bad)} not imported" if bad else ""))
    return 1 if bad else 0


def _export_data(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from hub.exporter import export_data
    from hub.settings import find_config, read
    from hub.store import open_store

    settings = read(find_config(arguments.config))
    with Progress() as bar:
        task = bar.add_task("exporting", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        store = open_store(settings)
        done = export_data(settings, store, arguments.format, arguments.folder, progress=show)
    store.close()
    for one in done.bad:
        _say(f"not exported: {one.where}: {one.why}")
    missing = f", {len(done.bad)} not" if done.bad else ""
    _say(f"{done.images} labelled images written to {arguments.folder}{missing}")
    return 1 if done.bad else 0


def _keys(arguments: argparse.Namespace) -> int:
    from hub import keys
    from hub.settings import find_config, read

    folder = read(find_config(arguments.config)).state_folder / "keys"
    if arguments.rotate or arguments.revoke:
        made = keys.change(
            folder,
            arguments.root or folder / keys.ROOT,
            SystemClock(),
            rotate=arguments.rotate,
            revoke=arguments.revoke,
        )
        _say(f"delegation {made.number} names {' and '.join(made.delegated)}; this hub signs with {made.delegated[0]}")
        if (folder / keys.ROOT).exists():
            _say(f"move {folder / keys.ROOT} to a safe place offline")
    elif not (folder / keys.DELEGATION).exists():
        keys.make(folder, SystemClock())
        _say(f"made keys in {folder}; move {keys.ROOT} to a safe place offline")
    _say(f'root_key = "{keys.load(folder).root_public}"')
    return 0


def _pack(arguments: argparse.Namespace) -> int:
    from hub.packing import write_pack
    from hub.policies import Policies
    from hub.settings import find_config, read
    from hub.store import open_store

    file, clock = read(find_config(arguments.config)), SystemClock()
    with closing(open_store(file)) as store:
        settings = Policies(file, store, clock).now()
        days, signed = settings.rollout.days, not arguments.unsigned
        size = write_pack(settings, store, arguments.release, arguments.out, clock, days=days, signed=signed)
    how = f"signed, good for {days} days" if signed else "NOT signed: cameras take it only with packs_unsigned"
    _say(f"release {arguments.release} written to {arguments.out}, {size} bytes, {how}")
    return 0


def _broker(arguments: argparse.Namespace) -> int:
    from hub import broker
    from shared.ids import check_camera

    cameras = [check_camera(one) for one in arguments.camera]
    passwords = broker.new_passwords([broker.HUB_USER, broker.SCADA_USER, *cameras])
    path = broker.write_configuration(arguments.folder, port=arguments.port, passwords=passwords, host=arguments.host)
    _say(
        f"wrote {path}; each account's password is in {arguments.folder / 'clear'}; start it with: mosquitto -c {path}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hone-hub",
        description="Hone's hub: collects the images that cameras are unsure about, has them labelled, retrains, "
        "proves the gain and rolls the release out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str, *, config: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run_command=run)
        command.add_argument("--verbose", action="store_true", help="log every event")
        if config:
            command.add_argument(
                "--config", type=Path, help="settings file (default: hub.toml, .hone/hub.toml or /etc/hone/hub.toml)"
            )
        return command

    demo = add("demo", _demo, "the whole story on this machine: broker, hub, three cameras, real images", config=False)
    demo.add_argument("--state", type=Path, default=Path(".hone"), help="folder for everything (default: .hone)")
    demo.add_argument("--seed", type=int, default=0, help="which images go where (default: 0)")
    demo.add_argument("--once", action="store_true", help="end after the story, write demo.json, exit 0 if all is well")
    demo.add_argument("--label", choices=("script", "me"), default="script", help="who labels (default: script)")
    demo.add_argument(
        "--story",
        choices=("better", "bad-release"),
        default="better",
        help="a model that gets better, or a release that looks better and is not (default: better)",
    )
    demo.add_argument(
        "--frames", type=int, default=0, help="frames of each camera before they come again (default: all there are)"
    )
    demo.add_argument("--port", type=int, default=0, help="port of the web page (default: a free one)")
    add("serve", _serve, "run the hub: collect, verify, label page, retrain, release, roll out")
    collect = add("collect", _collect, "collect from some sites, beside a serving hub and other collectors")
    collect.add_argument("--site", action="append", required=True, help="a site to collect from; repeat it")
    collect.add_argument("--name", help="of this collector (default: the hub's, '-' and the first site)")
    collect.add_argument("--only", action="store_true", help="take over no other site when its collector has died")
    train = add("train", _train, "train once and evaluate against the release in use; does not release")
    which = train.add_mutually_exclusive_group()
    which.add_argument("--run", type=int, help="number of a queued run (default: a new one)")
    which.add_argument("--again", type=int, metavar="N", help="repeat run N with its settings and data")
    which.add_argument("--resume", type=int, metavar="N", help="go on with run N, which was cancelled or has failed")
    train.add_argument("--why", default="by hand", help="a note on why")
    release = add("release", _release, "release a finished run's model through the running hub")
    release.add_argument("run", type=int, help="number of the run")
    release.add_argument("--note", default="by hand", help="a note, kept with the release")
    card = add("card", _card, "print the model card of a release: what it is for, learned from, and how good it is")
    card.add_argument("release", type=int, help="number of the release")
    card.add_argument("--json", action="store_true", help="as JSON (default: Markdown)")
    model = add("export-model", _export_model, "write a release as one file for people without Hone")
    model.add_argument("release", type=int, nargs="?", help="number of the release (default: the newest)")
    model.add_argument("--out", type=Path, metavar="FILE.tflite", help="as .tflite with labels as TFLite metadata")
    model.add_argument("--onnx", type=Path, metavar="FILE", help="as ONNX (needs the extra onnx)")
    model.add_argument("--safetensors", type=Path, metavar="FILE", help="its weights as safetensors")
    settings = add("settings", _settings, "show or change the settings that a running hub follows at once")
    settings.add_argument(
        "setting", nargs="*", metavar="SETTING", help="KEY shows it, KEY=VALUE sets it (default: show all)"
    )
    settings.add_argument("--clear", action="append", default=[], metavar="KEY", help="as hub.toml says; repeat it")
    settings.add_argument("--by", default="hone-hub", help="who changes it, for the record (default: hone-hub)")
    fsck = add("fsck", _fsck, "check that every row has its blob and every blob its row")
    fsck.add_argument("--deep", action="store_true", help="read every blob and compute its hash")
    fsck.add_argument(
        "--repair",
        action="store_true",
        help="mark lost images, heal found ones, find again what the index of segments has lost, move the rest away",
    )
    backup = add("backup", keeping.backup, "back up database, images and keys into a folder, also while the hub runs")
    backup.add_argument("folder", type=Path)
    backup.add_argument("--keep", type=int, metavar="N", help="drop all but the newest N generations (default: none)")
    backup.add_argument("--without-keys", action="store_true", help="leave the private keys out")
    restore = add("restore", keeping.restore, "restore a backup, also under a running hub; begins a new epoch")
    restore.add_argument("folder", type=Path)
    restore.add_argument("--generation", metavar="T", help="which one (default: the newest complete one)")
    restore.add_argument("--force", action="store_true", help="replace the database that is there, and keep a copy")
    restore.add_argument(
        "--incomplete", action="store_true", help="also when the backup lacks images; they are marked lost"
    )
    formats = ("folder", "coco", "csv", "label-studio")
    images = add(
        "import", _import, "import labelled images: a folder per class, or a list in COCO, CSV, Label Studio JSON"
    )
    images.add_argument("folder", type=Path)
    images.add_argument(
        "--split", choices=("train", "holdout"), help="to learn from, or to prove on, where no list says"
    )
    images.add_argument("--format", choices=formats, default="folder", help="of what is imported (default: folder)")
    images.add_argument("--images", type=Path, help="folder of a list's relative paths (default: that of the list)")
    images.add_argument("--empty", default="", metavar="CLASS", help="of images without any annotation in COCO")
    data = add("export-data", _export_data, "write all labelled images with their labels into an empty folder")
    data.add_argument("folder", type=Path)
    data.add_argument("--format", choices=formats, required=True, help="as other programs read it")
    pack = add("pack", _pack, "write a release as one file, to be carried to cameras by hand")
    pack.add_argument("release", type=int, help="number of the release")
    pack.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    pack.add_argument("--unsigned", action="store_true", help="leave the signature out; for laboratories")
    made = add("keys", _keys, "make the hub's keys if there are none, and print the root key for the cameras")
    made.add_argument("--rotate", action="store_true", help="make a new release key; the one before stays delegated")
    made.add_argument("--revoke", action="store_true", help="let no other key sign than this hub's release key")
    made.add_argument("--root", type=Path, metavar="FILE", help="the root key (default: root.pem among the keys)")
    broker = add("broker", _broker, "write a mosquitto configuration with an account per camera", config=False)
    broker.add_argument("--folder", type=Path, default=Path("broker"), help="where to (default: broker)")
    broker.add_argument("--camera", action="append", default=[], metavar="SITE/NAME", help="a camera; repeat it")
    broker.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    broker.add_argument("--port", type=int, default=1883, help="port (default: 1883)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. Errors of ours end it with one clear line."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(threadName)s: %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    run: Command = arguments.run_command
    try:
        return run(arguments)
    except HoneError as error:
        sys.stderr.write(f"hone-hub: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
