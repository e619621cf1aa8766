"""Which names are served, and the engine behind each: made on first use, renewed when the workspace changes.

A name is leased for the time of one answer. When a use case gets a new verdict or version, the next lease sees it,
while the answers that are being made end on the old one; what only the old one used is closed with the last of them.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

from core.canary import Canary, canary_remedy, control_arm, load_canary
from core.engines.base import Engine
from core.errors import ArtifactError, EngineUnavailable, TuneforkError
from core.models import starter
from core.remedy import Remedy
from core.settings import DEFAULT_BASE_MODEL, USE_CASE_NAME
from core.workspace import UseCaseFolder, Workspace
from serve.compose import Variant, compose, plan
from serve.holding import Held, KeyedLocks
from serve.parts import Moved, OpenBase, Shared, WorkspaceParts
from serve.served import (
    Entry,
    Served,
    Stamp,
    UnknownModel,
    file_stamp,
    fingerprint_of,
    present_remedy,
    public_name,
    stamp_of,
)

log = logging.getLogger("tunefork.serve")


@dataclass(frozen=True)
class _Live:
    served: Held[Served]
    use_case: str | None
    stamp: Stamp
    arm: str


class Catalog:
    """The served names of `workspace`. Thread-safe.

    Args:
        open_base: opens the engine of a base model; called once a model, and the engine is shared by all names.
    """

    def __init__(self, workspace: Workspace, open_base: OpenBase) -> None:
        self.workspace = workspace
        self._open_base = open_base
        self._locks = KeyedLocks()
        self._bases: dict[str, Engine] = {}
        self._shared = Shared()
        self._live: dict[str, _Live] = {}
        self._read: dict[str, tuple[Stamp, Remedy]] = {}
        self._canaries: dict[str, tuple[Stamp, Canary | None]] = {}
        self.opened = int(time.time())
        """Unix time."""
        self._closed = threading.Event()

    def entries(self) -> list[Entry]:
        """All served names: each use case's own and its variants, then the base models. Reads the workspace anew."""
        entries: list[Entry] = []
        for name in self.workspace.names():
            try:
                entries += self._of_use_case(self.workspace.use_case(name))
            except TuneforkError as exc:
                log.warning("use case %r is not listed: %s", name, exc)
        used = sorted({e.base_model for e in entries}) or [DEFAULT_BASE_MODEL]
        taken = {e.name for e in entries}
        for model in used:
            if (name := public_name(model)) not in taken:
                taken.add(name)
                entries.append(Entry(name, None, "", "base", model, self.opened))
        # What a deleted use case had open is let go of here.
        self._retire(lambda _, name: name not in taken)
        return entries

    def entry(self, name: str) -> Entry:
        """Raises UnknownModel, with near names; TuneforkError when what stands behind the name is damaged."""
        use_case = name.partition(":")[0]
        if use_case in self.workspace.names():
            own = self._of_use_case(self.workspace.use_case(use_case))
            if (found := _named(name, own)) is not None:
                return found
        entries = self.entries()
        if (found := _named(name, entries)) is not None:
            return found
        raise UnknownModel(name, [e.name for e in entries])

    @contextmanager
    def lease(self, name: str, ticket: str | None = None) -> Iterator[Served]:
        """What answers for `name`, kept open for the block. Opens what is not open yet, which may take a while.

        Args:
            ticket: by which a use case's canary takes the request or does not; without one it never does.

        Raises:
            UnknownModel: there is no such name.
            TuneforkError: something behind it cannot be opened.
        """
        drawn, arm = (name, "") if ticket is None else self._drawn(name, ticket)
        try:
            held = self._hold(drawn)
        except UnknownModel:
            if drawn == name:
                raise
            held, arm = self._hold(name), ""  # the canary ended just now
        try:
            yield replace(held.value, arm=arm) if arm else held.value
        finally:
            held.release()

    def close(self) -> None:
        """Let go of everything. Twice is harmless."""
        self._closed.set()
        self._retire(lambda _live, _name: True)
        for engine in list(self._bases.values()):
            engine.close()
        self._bases.clear()

    def _hold(self, name: str) -> Held[Served]:
        entry = self.entry(name)
        with self._locks[entry.use_case or f":{name}"]:
            if self._closed.is_set():
                raise EngineUnavailable("the server is stopping")
            live, stamp = self._live.get(name), self._stamp(entry)
            if live is None or (live.stamp, live.arm) != (stamp, entry.arm):
                if entry.use_case is not None:
                    # The other variants' old compositions too: they would keep an old index open until somebody asks.
                    self._retire(
                        lambda old, own: old.use_case == entry.use_case and (old.stamp != stamp or own == name)
                    )
                live = self._live[name] = _Live(self._make(entry), entry.use_case, stamp, entry.arm)
            retained = live.served.retain()
            assert retained, "the catalog holds every live composition itself"
            return live.served

    def _drawn(self, name: str, ticket: str) -> tuple[str, str]:
        """The name that answers a request for `name`, and the arm it counts for ("" where there is no canary)."""
        if not re.fullmatch(USE_CASE_NAME, name):
            return name, ""
        folder = UseCaseFolder(self.workspace.path / "use_cases" / name)
        canary = self.canary(folder)
        if canary is None:
            return name, ""
        return (f"{name}:canary", canary.arm) if canary.takes(ticket) else (name, control_arm(folder))

    def canary(self, folder: UseCaseFolder) -> Canary | None:
        """The canary under way. A damaged one is none: the use case itself must go on."""
        stamp = (file_stamp(folder.canary_path),)
        cached = self._canaries.get(folder.name)
        if cached is None or cached[0] != stamp:
            canary = None
            try:
                canary = load_canary(folder)
                if canary is not None:
                    canary_remedy(folder, canary, self._remedy(folder))
            except ArtifactError as exc:
                canary = None
                log.error("the canary of %r is not served: %s", folder.name, exc)
            cached = self._canaries[folder.name] = (stamp, canary)
            arm = "" if canary is None else canary.arm
            self._retire(lambda old, own: own == f"{folder.name}:canary" and old.arm != arm)
        return cached[1]

    def _stamp(self, entry: Entry) -> Stamp:
        return () if entry.use_case is None else stamp_of(self.workspace.use_case(entry.use_case))

    def _retire(self, doomed: Callable[[_Live, str], bool]) -> None:
        """Let go of the compositions for which `doomed(live, name)`; answers in progress keep theirs to their end."""
        for name, live in list(self._live.items()):
            # Asked before locking: nobody may wait for another use case's lock while holding one.
            if not doomed(live, name):
                continue
            with self._locks[live.use_case or f":{name}"]:
                if self._live.get(name) is live:
                    del self._live[name]
                    live.served.release()

    def _make(self, entry: Entry) -> Held[Served]:
        if entry.use_case is None:
            engine = self._base(entry.base_model)
            served = Served(
                entry.name,
                engine,
                Remedy.model_fields["max_tokens"].default,
                fingerprint_of(entry.name),
                base_model=entry.public_base_model,
                engine_kind=_kind(engine),
            )
            return Held(served, lambda: None)
        folder = self.workspace.use_case(entry.use_case)
        remedy, variant = self._remedy(folder), str(entry.variant)
        if variant == "canary":
            canary = self.canary(folder)
            if canary is None or canary.arm != entry.arm:
                raise UnknownModel(entry.name, [])  # ended just now
            remedy, variant = canary_remedy(folder, canary, remedy)
        what = plan(remedy, cast(Variant, variant), folder.index, folder.adapters, folder.demonstrations)
        parts = WorkspaceParts(self.workspace, folder, self._base, self._shared, self._open_base)
        try:
            engine = compose(what, parts)
        except Moved:
            parts.close()
            return self._make(entry)
        except BaseException:
            parts.close()
            raise
        fingerprint = fingerprint_of(entry.name, repr(what))
        # Where a model of its own answers, its base need not be open.
        inner = self._base(what.base_model) if what.model is None and not what.head else None
        inner = parts.model(what.model) if what.model is not None else inner
        kind = "head" if inner is None else _kind(inner)
        served = Served(
            entry.name,
            engine,
            remedy.max_tokens,
            fingerprint,
            use_case=entry.use_case,
            base_model=entry.public_base_model,
            engine_kind=kind,
            route=entry.route,
        )
        return Held(served, parts.close)

    def _base(self, model: str) -> Engine:
        known = starter(model)
        key = known.name if known is not None else model
        with self._locks["base", key]:
            if key not in self._bases:
                engine = self._open_base(model)
                if self._closed.is_set():
                    engine.close()
                    raise EngineUnavailable("the server is stopping")
                self._bases[key] = engine
            return self._bases[key]

    def _of_use_case(self, folder: UseCaseFolder) -> list[Entry]:
        remedy = self._remedy(folder)
        variants: list[tuple[Variant, str]] = [("", remedy.route)]
        if folder.index.active() is not None:
            variants.append(("rag", "rag"))
        if folder.adapters.active() is not None:
            variants.append(("tune", "tune"))
        variants.append(("base", "base"))
        source = folder.remedy_path if folder.remedy_path.exists() else folder.path / "use_case.toml"
        created = int(source.stat().st_mtime)
        entries = [
            Entry(f"{folder.name}:{v}" if v else folder.name, folder.name, v, route, remedy.base_model, created)
            for v, route in variants
        ]
        if (canary := self.canary(folder)) is not None:
            tried, variant = canary_remedy(folder, canary, remedy)
            route, name = variant or tried.route, f"{folder.name}:canary"
            entries.append(Entry(name, folder.name, "canary", route, tried.base_model, created, canary.arm))
        return entries

    def _remedy(self, folder: UseCaseFolder) -> Remedy:
        """What was built; before the first `build`, the bare base model as declared."""
        stamp = stamp_of(folder)
        cached = self._read.get(folder.name)
        if cached is not None and cached[0] == stamp:
            return cached[1]
        remedy = present_remedy(folder)
        self._read[folder.name] = (stamp, remedy)
        return remedy


def _named(name: str, entries: list[Entry]) -> Entry | None:
    return next((e for e in entries if e.name == name), None)


def _kind(engine: Engine) -> str:
    return type(engine).__name__.removesuffix("Engine").lower()
