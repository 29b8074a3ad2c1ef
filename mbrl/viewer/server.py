"""A page that is served until it is closed."""

import contextlib
import logging
import re
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, final

if TYPE_CHECKING:
    import viser

WEBSOCKETS = "websockets.server"  # the logger of what viser serves with
ACCENT = (0, 114, 178)  # the blue of the figures


def open_server(host: str, port: int, title: str) -> "viser.ViserServer":
    """An empty page; viser takes the next free port where this one is taken, and prints the address.

    Raises:
        ModuleNotFoundError: viser is not installed.
        OSError: nothing can be served at the address.
        ValueError: the port is not in 0..65535.
    """
    try:
        import viser
    except ModuleNotFoundError as error:
        if error.name != "viser":
            raise
        raise ModuleNotFoundError(
            'the browser view needs viser, which is not installed: pip install "mbrl-control[view]"', name="viser"
        ) from None
    _check_address(host, port)
    logging.getLogger(WEBSOCKETS).addFilter(_is_worth_saying)
    server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
    server.gui.configure_theme(show_logo=False, show_share_button=False, brand_color=ACCENT)
    return server


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Not that a browser has opened a connection in advance and never used it, with thirty lines of traceback."""
    return record.getMessage() != "opening handshake failed"


def escaped(text: str) -> str:
    """Text in which the page sees no markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)


def _check_address(host: str, port: int) -> None:
    """Raise for an address at which viser would look for a free port for ever."""
    if not (isinstance(port, int) and 0 <= port <= 65535):
        raise ValueError(f"port must be in 0..65535, where 0 is any free one, got {port!r}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        raise OSError(
            f"no page can be served at host {host!r}: {error.strerror or error}; 127.0.0.1 is seen on this machine only, "
            "0.0.0.0 from everywhere"
        ) from error


@final
class Viewer:
    """A page in the browser, served from a thread of its own until :meth:`close`; a context manager.

    It comes from :func:`~mbrl.viewer.view_trajectory` and :func:`~mbrl.viewer.view_control`.

    Args:
        server: the page.
        run: what moves it, called once in the viewer's thread; returns soon after the event that it is handed is set.
    """

    def __init__(self, server: "viser.ViserServer", run: Callable[[threading.Event], None]):
        self._server, self._run = server, run
        self._ending, self._over = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="mbrl viewer", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._run(self._ending)
        except Exception as error:
            self._error = error  # raised by wait
        finally:
            self._over.set()

    @property
    def url(self) -> str:
        """Address of the page, ``http://<host>:<port>``."""
        host = self._server.get_host()
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{host}:{self._server.get_port()}"

    @property
    def closed(self) -> bool:
        """Whether the page is gone."""
        return self._ending.is_set()

    def wait(self) -> None:
        """Return when the page has been closed, or Ctrl-C was pressed, which closes it.

        Raises:
            Exception: what stopped the page from moving, once it is closed.
        """
        with contextlib.suppress(KeyboardInterrupt):
            self._over.wait()
        self.close()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the page, its thread and its port; closing again does nothing."""
        if self._ending.is_set():
            return
        self._ending.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._server.stop()
        logging.getLogger(WEBSOCKETS).removeFilter(_is_worth_saying)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Viewer({'closed' if self.closed else self.url})"
