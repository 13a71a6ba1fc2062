"""The dock widget: connects to a running daemon's view, pauses it, and shows its newest frame."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from qtpy import QtWidgets
from qtpy.QtCore import Qt, Signal

from refocusd.errors import RefocusdError
from refocusd.napari_plugin.live import NAMES, LiveStatus, frame_layers, watched
from refocusd.view.client import DEFAULT_URL, ApiClient, ShownFrame

#: Attributes that each frame sets; the user keeps all others of a live layer.
RENEWED = ("scale", "translate", "metadata")


class LiveWidget(QtWidgets.QWidget):  # type: ignore[misc]
    """Live frames of a daemon as layers of a viewer, its state, and the frames to look at.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    url : str
        Address of the live view.
    """

    #: Sent by the threads that wait for the view: a status, a frame, an error, a text, or None.
    told = Signal(object)

    def __init__(self, napari_viewer: Any, url: str = DEFAULT_URL) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._client = ApiClient(url)
        self._looking, self._drawn = threading.Event(), threading.Event()
        #: Set when the connection is not wanted any more.
        self._over = threading.Event()
        self._over.set()
        self.told.connect(self._take)
        self.url, self.token_file = QtWidgets.QLineEdit(url), QtWidgets.QLineEdit()
        self.token_file.setPlaceholderText("only for another user's view")
        self.connecting = self._button("Connect", self.toggle_connection)
        self.state = _words("Not connected")
        self.pause = self._button("", self._switch)
        self.live = self._check("Show the newest frame", self._look)
        self.overlay = self._check("Trust map over the refocused frame", self._lay_over)
        self.doubted = QtWidgets.QListWidget()
        self.doubted.setAccessibleName("Frames to look at")
        self.doubted.itemActivated.connect(self._look_at)
        form = QtWidgets.QFormLayout()
        form.addRow("View", self.url)
        form.addRow(self._button("Token file…", self._browse), self.token_file)
        column = QtWidgets.QVBoxLayout(self)
        column.addLayout(form)
        legend = _words("Error over 10 %: unlikely (blue), possible (yellow), likely (violet)")
        for part in (self.connecting, self.state, self.pause, self.live, self.overlay, legend):
            column.addWidget(part)
        column.addWidget(_words("Frames to look at (double-click shows one)"))
        column.addWidget(self.doubted)
        self._look(on=True)
        self._show_status(None)

    # -- connection -------------------------------------------------------------------------

    def toggle_connection(self) -> None:
        """Connect to the view that the user has named, or disconnect."""
        if not self._over.is_set():
            self._let_go("Not connected")
            return
        file = Path(self.token_file.text()) if self.token_file.text() else None
        try:
            self._client = ApiClient.with_token_file(self.url.text().strip(), file)
        except RefocusdError as error:
            self.state.setText(str(error))
            return
        self._over = threading.Event()
        self.destroyed.connect(partial(threading.Event.set, self._over))
        self.connecting.setText("Disconnect")
        self.state.setText("Connecting…")
        self._begin(watched(self._client, self._looking, self._drawn))

    def _begin(self, things: Iterable[Any]) -> None:
        """Emit things as they come, from a thread, because each may take a while."""
        thread = threading.Thread(target=_tell, args=(self.told, things, self._over), daemon=True)
        thread.start()

    def _let_go(self, why: str) -> None:
        self._over.set()
        self.connecting.setText("Connect")
        self._show_status(None)
        self.state.setText(why)

    def _take(self, said: object) -> None:
        if self._over.is_set():
            return
        if isinstance(said, LiveStatus):
            self._show_status(said)
        elif isinstance(said, ShownFrame):
            if self.live.isChecked() or not said.about["live"]:
                self._show(said)
            self._drawn.set()
        elif isinstance(said, RefocusdError):
            self._let_go(str(said))
        elif isinstance(said, str):
            importlib.import_module("napari.utils.notifications").show_warning(said)

    # -- state ------------------------------------------------------------------------------

    def _show_status(self, status: LiveStatus | None) -> None:
        self._paused = status.paused if status is not None else None
        self.pause.setEnabled(self._paused is not None)
        self.pause.setText("Resume refocusing" if self._paused else "Pause refocusing")
        if status is None:
            return
        self.state.setText(status.text)
        lines = [
            (f"{axes}\n{each['verdict']}: {'; '.join(each['reasons'])}", each)
            for each in status.doubted
            for axes in [", ".join(f"{name} {value}" for name, value in each["axes"].items())]
        ]
        if [line for line, _ in lines] == [
            self.doubted.item(row).text() for row in range(self.doubted.count())
        ]:
            return  # so that the user's selection stays
        self.doubted.clear()
        for line, each in lines:
            item = QtWidgets.QListWidgetItem(line, self.doubted)
            item.setData(Qt.ItemDataRole.UserRole, each)

    def _switch(self) -> None:
        self._begin(_once(partial(self._client.ask, "pause", {"on": not self._paused})))

    # -- frames -----------------------------------------------------------------------------

    def _look(self, on: bool) -> None:
        (self._looking.set if on else self._looking.clear)()

    def _look_at(self, item: Any) -> None:
        """Show a frame from the list instead of the live ones."""
        self.live.setChecked(False)
        about = item.data(Qt.ItemDataRole.UserRole)
        query = {"acquisition": about["acquisition"], "axes": json.dumps(about["axes"])}
        self._begin(_once(partial(self._client.frame, "frame", side="4096", **query)))

    def _show(self, frame: ShownFrame) -> None:
        layers = {look["name"]: (pixels, look) for pixels, look, _ in frame_layers(frame)}
        known = [name for name in NAMES if name in self._viewer.layers]
        for name in known:
            if name not in layers:
                self._viewer.layers.remove(name)
        for name, (pixels, look) in layers.items():
            if name not in known:
                self._viewer.add_image(pixels, **look)
                continue
            layer = self._viewer.layers[name]
            layer.data = pixels
            for each in RENEWED:
                setattr(layer, each, look[each])
        self._lay_over(self.overlay.isChecked())
        pair = [self._viewer.layers[name] for name in NAMES[:2] if name in layers]
        if len(pair) == 2 and not {*NAMES[:2]} <= {*known}:
            # One contrast for both, which stays as the user has set it.
            link = importlib.import_module("napari.experimental").link_layers
            link(pair, ("contrast_limits", "gamma"))

    def _lay_over(self, on: bool) -> None:
        if NAMES[-1] in self._viewer.layers:
            self._viewer.layers[NAMES[-1]].visible = on

    # -- parts ------------------------------------------------------------------------------

    def _button(self, text: str, do: Callable[[], None]) -> Any:
        button = QtWidgets.QPushButton(text)
        button.clicked.connect(lambda *_: do())
        return button

    def _check(self, text: str, do: Callable[[bool], None]) -> Any:
        box = QtWidgets.QCheckBox(text)
        box.setChecked(True)
        box.toggled.connect(do)
        return box

    def _browse(self) -> None:
        file, _ = QtWidgets.QFileDialog.getOpenFileName(self, "The view's token", "")
        if file:
            self.token_file.setText(file)


def _words(text: str) -> Any:
    label = QtWidgets.QLabel(text)
    label.setWordWrap(True)
    return label


def _once(call: Callable[[], Any]) -> Iterator[Any]:
    """Yield one answer, or a text why there is none; the connection continues."""
    try:
        yield call()
    except RefocusdError as error:
        yield str(error)


def _tell(told: Any, things: Iterable[Any], over: threading.Event) -> None:
    with suppress(RuntimeError):  # the widget was deleted meanwhile
        try:
            for thing in things:
                if over.is_set():
                    return
                told.emit(thing)
        except RefocusdError as error:
            told.emit(error)
        except Exception as error:  # noqa: BLE001 (a panel that stands still would say nothing)
            told.emit(RefocusdError(f"{type(error).__name__}: {error}; connect again"))
