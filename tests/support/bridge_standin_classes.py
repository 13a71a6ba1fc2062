"""The Java classes that the stand-in hands out: methods, types and interfaces by their Java names.

Signatures follow Micro-Manager 2's public interfaces (``org.micromanager.*``, ``mmcorej``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from bridge_standin_microscope import Microscope, Settings, Store, StoredImage

CONSTRUCTIBLE = ("org.micromanager.Studio", "mmcorej.CMMCore")
STRING, COORDS = "java.lang.String", "org.micromanager.data.Coords"

Methods = tuple[tuple[str, tuple[str, ...], str], ...]
#: What every object has.
OBJECT: Methods = (("hashCode", (), "int"), ("toString", (), STRING))


class Java:
    """An object of a Java class; `methods` lists name, argument types and result type of each."""

    java_class: ClassVar[str]
    interfaces: ClassVar[tuple[str, ...]] = ("java.lang.Object",)
    fields: ClassVar[tuple[str, ...]] = ()
    methods: ClassVar[Methods]

    def api(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "arguments": list(arguments), "return-type": result}
            for name, arguments, result in (*self.methods, *OBJECT)
        ]

    @property
    def identity(self) -> object:
        """What it represents of the microscope: Java has one object for each such thing."""
        return self

    def hashCode(self) -> int:
        return hash((self.java_class, id(self.identity))) & 0x7FFFFFFF

    def toString(self) -> str:
        return f"{self.java_class}@{self.hashCode():x}"


class JavaList(Java):
    java_class = "java.util.ArrayList"
    interfaces: ClassVar[tuple[str, ...]] = ("java.util.List", "java.lang.Object")
    methods: ClassVar[Methods] = (("size", (), "int"), ("get", ("int",), "java.lang.Object"))

    def __init__(self, items: list[Any]) -> None:
        self._items = list(items)

    def size(self) -> int:
        return len(self._items)

    def get(self, index: int) -> Any:
        return self._items[index]

    def toString(self) -> str:
        return f"[{', '.join(item.toString() for item in self._items)}]"


class PropertyMap(Java):
    java_class = "org.micromanager.internal.propertymap.DefaultPropertyMap"
    interfaces: ClassVar[tuple[str, ...]] = ("org.micromanager.PropertyMap",)
    methods: ClassVar[Methods] = (("toJSON", (), STRING),)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def toJSON(self) -> str:
        kinds = {str: "STRING", int: "INTEGER", float: "DOUBLE", bool: "BOOLEAN"}
        entries = {k: {"type": kinds[type(v)], "scalar": v} for k, v in self._values.items()}
        head = {"encoding": "UTF-8", "format": "Micro-Manager Property Map", "major_version": 2}
        return json.dumps({**head, "minor_version": 0, "map": entries})


class Metadata(Java):
    java_class = "org.micromanager.data.internal.DefaultMetadata"
    interfaces: ClassVar[tuple[str, ...]] = ("org.micromanager.data.Metadata",)
    methods: ClassVar[Methods] = (
        ("toPropertyMap", (), "org.micromanager.PropertyMap"),
        ("getCamera", (), STRING),
    )

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def toPropertyMap(self) -> PropertyMap:
        return PropertyMap(self._values)

    def getCamera(self) -> str:
        return str(self._values["Camera"])


class SummaryMetadata(Metadata):
    java_class = "org.micromanager.data.internal.DefaultSummaryMetadata"
    interfaces: ClassVar[tuple[str, ...]] = ("org.micromanager.data.SummaryMetadata",)
    methods: ClassVar[Methods] = (
        ("toPropertyMap", (), "org.micromanager.PropertyMap"),
        ("getChannelNameList", (), "java.util.List"),
    )

    def __init__(self, store: Store) -> None:
        super().__init__({**store.summary, "MicroManagerVersion": "2.0.3"})
        self._channels = list(store.channels)

    def getChannelNameList(self) -> list[str]:
        return self._channels


class Coords(Java):
    java_class = "org.micromanager.data.internal.DefaultCoords"
    interfaces: ClassVar[tuple[str, ...]] = (COORDS,)
    methods: ClassVar[Methods] = (("getIndex", (STRING,), "int"),)

    def __init__(self, text: str) -> None:
        pairs = [part.split("=") for part in text.split(",") if part]
        self.key = tuple(sorted((axis, int(value)) for axis, value in pairs))

    def getIndex(self, axis: str) -> int:
        return dict(self.key).get(axis, -1)


class Image(Java):
    java_class = "org.micromanager.data.internal.DefaultImage"
    interfaces: ClassVar[tuple[str, ...]] = ("org.micromanager.data.Image",)
    methods: ClassVar[Methods] = (
        ("getRawPixels", (), "java.lang.Object"),
        ("getWidth", (), "int"),
        ("getHeight", (), "int"),
        ("getMetadata", (), "org.micromanager.data.Metadata"),
    )

    def __init__(self, stored: StoredImage) -> None:
        self._stored = stored

    @property
    def identity(self) -> object:
        return self._stored

    def getRawPixels(self) -> Any:
        return self._stored.pixels

    def getWidth(self) -> int:
        return int(self._stored.pixels.shape[1])

    def getHeight(self) -> int:
        return int(self._stored.pixels.shape[0])

    def getMetadata(self) -> Metadata:
        return Metadata(self._stored.metadata)


class Datastore(Java):
    java_class = "org.micromanager.data.internal.DefaultDatastore"
    interfaces: ClassVar[tuple[str, ...]] = (
        "org.micromanager.data.Datastore",
        "org.micromanager.data.DataProvider",
    )
    methods: ClassVar[Methods] = (
        ("getSavePath", (), STRING),
        ("isFrozen", (), "boolean"),
        ("getNumImages", (), "int"),
        ("getAxes", (), "java.util.List"),
        ("getNextIndex", (STRING,), "int"),
        ("getImage", (COORDS,), "org.micromanager.data.Image"),
        ("getAnyImage", (), "org.micromanager.data.Image"),
        ("getSummaryMetadata", (), "org.micromanager.data.SummaryMetadata"),
        ("getName", (), STRING),
    )

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def identity(self) -> object:
        return self._store

    def getSavePath(self) -> str | None:
        return self._store.save_path or None

    def isFrozen(self) -> bool:
        return self._store.frozen

    def getNumImages(self) -> int:
        return len(self._store.images)

    def getAxes(self) -> list[str]:
        return self._store.axes

    def getNextIndex(self, axis: str) -> int:
        return self._store.next_index(axis)

    def getImage(self, coords: Coords) -> Image | None:
        stored = self._store.images.get(coords.key)
        return None if stored is None else Image(stored)

    def getAnyImage(self) -> Image | None:
        stored = next(iter(self._store.images.values()), None)
        return None if stored is None else Image(stored)

    def getSummaryMetadata(self) -> SummaryMetadata:
        return SummaryMetadata(self._store)

    def getName(self) -> str:
        return self._store.name


class RewritableDatastore(Datastore):
    java_class = "org.micromanager.data.internal.DefaultRewritableDatastore"
    interfaces: ClassVar[tuple[str, ...]] = (
        "org.micromanager.data.RewritableDatastore",
        *Datastore.interfaces,
    )
    methods: ClassVar[Methods] = (*Datastore.methods, ("deleteAllImages", (), "void"))


def _provider(store: Store) -> Datastore:
    return RewritableDatastore(store) if store.rewritable else Datastore(store)


class DisplayWindow(Java):
    java_class = "org.micromanager.display.internal.displaywindow.DisplayController"
    interfaces: ClassVar[tuple[str, ...]] = (
        "org.micromanager.display.DisplayWindow",
        "org.micromanager.display.DataViewer",
    )
    methods: ClassVar[Methods] = (("getDataProvider", (), "org.micromanager.data.DataProvider"),)

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def identity(self) -> object:
        return self._store

    def getDataProvider(self) -> Datastore:
        return _provider(self._store)


class DisplayManager(Java):
    java_class = "org.micromanager.display.internal.DefaultDisplayManager"
    interfaces: ClassVar[tuple[str, ...]] = ("org.micromanager.display.DisplayManager",)
    methods: ClassVar[Methods] = (("getAllDataViewers", (), "java.util.List"),)

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope

    def getAllDataViewers(self) -> list[DisplayWindow]:
        return [DisplayWindow(store) for store in self._microscope.windows]


class SequenceSettings(Java):
    """Its public fields are called like its methods."""

    java_class = "org.micromanager.acquisition.SequenceSettings"
    fields = ("save", "root", "prefix")
    methods: ClassVar[Methods] = (
        ("save", (), "boolean"),
        ("root", (), STRING),
        ("prefix", (), STRING),
    )

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def save(self) -> bool:
        return self._settings.save

    def root(self) -> str:
        return self._settings.root

    def prefix(self) -> str:
        return self._settings.prefix


class AcquisitionManager(Java):
    java_class = "org.micromanager.acquisition.internal.DefaultAcquisitionManager"
    interfaces: ClassVar[tuple[str, ...]] = ("org.micromanager.acquisition.AcquisitionManager",)
    methods: ClassVar[Methods] = (
        ("isAcquisitionRunning", (), "boolean"),
        ("getAcquisitionSettings", (), "org.micromanager.acquisition.SequenceSettings"),
    )

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope

    def isAcquisitionRunning(self) -> bool:
        return self._microscope.running

    def getAcquisitionSettings(self) -> SequenceSettings:
        return SequenceSettings(self._microscope.settings)


class AcquisitionEngine(Java):
    java_class = "org.micromanager.acquisition.internal.acqengjcompat.AcqEngJAdapter"
    interfaces: ClassVar[tuple[str, ...]] = (
        "org.micromanager.acquisition.internal.AcquisitionEngine",
    )
    methods: ClassVar[Methods] = (("getSummaryMetadata", (), "mmcorej.org.json.JSONObject"),)

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope

    def getSummaryMetadata(self) -> dict[str, Any] | None:
        return dict(self._microscope.last_summary or {}) or None


class DataManager(Java):
    java_class = "org.micromanager.data.internal.DefaultDataManager"
    interfaces: ClassVar[tuple[str, ...]] = ("org.micromanager.data.DataManager",)
    methods: ClassVar[Methods] = (("createCoords", (STRING,), COORDS),)

    def createCoords(self, text: str) -> Coords:
        return Coords(text)


class SnapLiveManager(Java):
    java_class = "org.micromanager.internal.SnapLiveManager"
    interfaces: ClassVar[tuple[str, ...]] = ("org.micromanager.SnapLiveManager",)
    methods: ClassVar[Methods] = (
        ("getDisplay", (), "org.micromanager.display.DisplayWindow"),
        ("isLiveModeOn", (), "boolean"),
    )

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope

    def getDisplay(self) -> DisplayWindow | None:
        store = self._microscope.snap_live
        return None if store is None else DisplayWindow(store)

    def isLiveModeOn(self) -> bool:
        return self._microscope.live_mode_on


class TaggedImage(Java):
    java_class = "mmcorej.TaggedImage"
    fields = ("pix", "tags")
    methods: ClassVar[Methods] = ()

    def __init__(self, pixels: Any, tags: dict[str, Any]) -> None:
        self.pix = pixels
        self.tags = tags


class Core(Java):
    java_class = "mmcorej.CMMCore"
    methods: ClassVar[Methods] = (
        ("isSequenceRunning", (), "boolean"),
        ("isSequenceRunning", (STRING,), "boolean"),
        ("getLastTaggedImage", (), "mmcorej.TaggedImage"),
        ("getLastTaggedImage", ("int",), "mmcorej.TaggedImage"),
    )

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope

    def isSequenceRunning(self) -> bool:
        return self._microscope.sequence_running

    def getLastTaggedImage(self) -> TaggedImage:
        newest = self._microscope.newest
        if newest is None:
            raise RuntimeError("java.lang.Exception: Circular buffer is empty.")
        return TaggedImage(*newest)


class Studio(Java):
    java_class = "org.micromanager.internal.MMStudio"
    interfaces: ClassVar[tuple[str, ...]] = (
        "org.micromanager.Studio",
        "org.micromanager.CompatibilityInterface",
    )
    methods: ClassVar[Methods] = (
        ("acquisitions", (), "org.micromanager.acquisition.AcquisitionManager"),
        ("displays", (), "org.micromanager.display.DisplayManager"),
        ("data", (), "org.micromanager.data.DataManager"),
        ("live", (), "org.micromanager.SnapLiveManager"),
        ("core", (), "mmcorej.CMMCore"),
        ("getAcquisitionEngine", (), "org.micromanager.acquisition.internal.AcquisitionEngine"),
    )

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope

    def acquisitions(self) -> AcquisitionManager:
        return AcquisitionManager(self._microscope)

    def displays(self) -> DisplayManager:
        return DisplayManager(self._microscope)

    def data(self) -> DataManager:
        return DataManager()

    def live(self) -> SnapLiveManager:
        return SnapLiveManager(self._microscope)

    def core(self) -> Core:
        return Core(self._microscope)

    def getAcquisitionEngine(self) -> AcquisitionEngine:
        return AcquisitionEngine(self._microscope)
