"""Outpost: a collector in a process of its own, beside the serving hub and other collectors: bus, store, leases."""

import logging
from collections import Counter
from collections.abc import Sequence

import msgspec

from hub.collect import Collector
from hub.lease import Claims
from hub.settings import HubSettings
from hub.store import Store
from shared import topics
from shared.bus import Message
from shared.clock import Clock
from shared.errors import ConfigError
from shared.ids import boot_id, check_name
from shared.messages import HubStatus, encode
from shared.mqtt import PahoBus

log = logging.getLogger(__name__)


def settings_for(settings: HubSettings, sites: Sequence[str], name: str | None = None) -> HubSettings:
    """The hub's settings under the collector's name; ConfigError for names that cannot be, or when the hub collects
    from every site itself.
    """
    for site in sites:
        check_name(site, "site")
    name = check_name(name or f"{settings.name}-{sites[0]}", "collector name")
    if name == settings.name:
        raise ConfigError("is the hub's own name", subject=f"--name {name}", remedy="Give the collector another one")
    if settings.collect.enabled and not settings.collect.sites:
        raise ConfigError(
            f"hub {settings.name} collects from every site itself",
            remedy="Set collect.enabled = false, or collect.sites to those that are its own",
        )
    return msgspec.structs.replace(settings, name=name)


class Outpost:
    """One collector. settings: from `settings_for`. sites: for which it is started; only: take over no others."""

    def __init__(
        self, settings: HubSettings, sites: Sequence[str], store: Store, clock: Clock, *, only: bool = False
    ) -> None:
        name, boot = settings.name, boot_id()
        will = (topics.hub_status(name), encode(HubStatus(online=False)))
        self._bus = PahoBus(settings.mqtt, client_id=f"hone/hub/{name}", will=will)
        claims = Claims(name, boot, sites, only=only)
        self._collector = Collector(settings, store=store, bus=self._bus, clock=clock, errors=Counter(), claims=claims)

    def start(self) -> None:
        """Start every thread; the broker may come later. ConfigError when another collector of this name runs."""
        self._collector.start()
        self._bus.start(self)

    def stop(self) -> None:
        """Store what is complete, free the sites for others, say goodbye."""
        self._collector.stop()
        self._bus.stop(self._collector.statuses(online=False))

    @property
    def error(self) -> ConfigError | None:
        """Why this collector shall end."""
        return self._collector.error

    # -- the bus; called in its thread

    def connected(self) -> None:
        """The broker has us."""
        self._collector.connected()
        log.info("connected to the broker")

    def disconnected(self, reason: str) -> None:
        """The broker is gone; the bus goes on trying."""
        self._collector.disconnected(reason)
        log.warning("disconnected from the broker (%s)", reason)

    def message(self, message: Message) -> None:
        """A message of a camera."""
        self._collector.message(message)
