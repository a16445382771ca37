from __future__ import annotations

import gzip
import hashlib
import http.server
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.config.data import DataConfig
from common.data import datasets, downloads, idx
from common.data.downloads import Source
from common.data.sets import cifar10
from common.errors import ConfigError
from tests.common.data.whole import whole

ROOT = Path(__file__).resolve().parents[3]
NAME = "file.bin"
CONTENT = bytes(range(256)) * 9000


class Home:
    """A real server of files, told what goes wrong."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.cut = False
        self.together = 1
        self.asked: list[str] = []
        home = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                home.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name = request.path.rpartition("/")[2]
        self.asked.append(name)
        if name not in self.files:
            request.send_error(404)
            return
        content = self.files[name]
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        half = len(content) // 2
        request.wfile.write(content[:half])
        if self.cut:
            return
        if self.together > 1:
            self.barrier.wait()
        request.wfile.write(content[half:])

    @contextmanager
    def serving(self) -> Iterator[None]:
        self.barrier = threading.Barrier(self.together, timeout=60)
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def source(*homes: str, content: bytes = CONTENT) -> Source:
    return Source(homes, {NAME: hashlib.md5(content).hexdigest()})


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a port that is taken, so that no other test gets it, and refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


def refusal(source: Source, folder: Path, seconds: float = 10.0) -> str:
    """The one line that a download is refused with; nothing is left in the folder."""
    with pytest.raises(ConfigError) as caught:
        downloads.fetch("things", source, [NAME], folder, seconds=seconds)
    assert list(folder.iterdir()) == []
    said = str(caught.value)
    assert "\n" not in said
    assert f"get {NAME} from {' or '.join(source.homes)} and put them in {folder}" in said
    return said


def test_a_download_ends_whole_under_its_name_alone(tmp_path: Path) -> None:
    home = Home({NAME: CONTENT})
    with home.serving():
        downloads.fetch("things", source(home.address), [NAME], tmp_path / "deep" / "cache")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "deep" / "cache").iterdir()] == [
        (NAME, CONTENT)
    ]


def test_a_wrong_checksum_is_refused_and_not_kept(tmp_path: Path) -> None:
    home = Home({NAME: CONTENT})
    with home.serving():
        assert "has the MD5 " in refusal(source(home.address, content=b"other"), tmp_path)


def test_a_cut_connection_is_refused_and_not_kept(tmp_path: Path) -> None:
    home = Home({NAME: CONTENT})
    home.cut = True
    with home.serving():
        said = refusal(source(home.address), tmp_path)
    assert f"was cut off after {len(CONTENT) // 2} of {len(CONTENT)} bytes" in said


def test_where_there_is_no_server_the_files_the_homes_and_the_folder_are_told(
    tmp_path: Path, nobody: str
) -> None:
    assert "Connection refused" in refusal(source(nobody), tmp_path)


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert "timed out" in refusal(source(address), tmp_path, seconds=0.05)


def test_an_answer_that_is_no_http_is_refused(tmp_path: Path) -> None:
    with socket.socket() as strange:
        strange.bind(("127.0.0.1", 0))
        strange.listen()

        def answer() -> None:
            connection, _ = strange.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"what?\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert "what?" in refusal(source(f"http://127.0.0.1:{strange.getsockname()[1]}/"), tmp_path)
        thread.join()


def test_homes_are_tried_in_order_until_one_gives_the_file(tmp_path: Path, nobody: str) -> None:
    lacking, cutting, good, unasked = Home({}), Home({NAME: CONTENT}), Home({NAME: CONTENT}), Home({})
    cutting.cut = True
    homes = source(nobody, lacking.address, cutting.address, good.address, unasked.address)
    with lacking.serving(), cutting.serving(), good.serving(), unasked.serving():
        downloads.fetch("things", homes, [NAME], tmp_path)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert [home.asked for home in (lacking, cutting, good, unasked)] == [[NAME], [NAME], [NAME], []]


def test_two_processes_that_download_at_once_both_end_with_the_whole_file(tmp_path: Path) -> None:
    home = Home({NAME: CONTENT})
    home.together = 2
    code = (
        "import sys; from pathlib import Path; from common.data.downloads import Source, fetch; "
        "home, name, md5, folder = sys.argv[1:]; "
        "fetch('things', Source((home,), {name: md5}), [name], Path(folder)); "
        "print(Path(folder, name).stat().st_size)"
    )
    md5 = hashlib.md5(CONTENT).hexdigest()
    command = [sys.executable, "-c", code, home.address, NAME, md5, str(tmp_path)]
    with home.serving():
        both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
        said = [process.communicate(timeout=120)[0] for process in both]
    assert said == [f"{len(CONTENT)}\n".encode()] * 2
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(NAME, CONTENT)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, nobody: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"file/below: cannot be written: .*; set XDG_CACHE_HOME"):
        downloads.fetch("things", source(nobody), [NAME], tmp_path / "file" / "below")


def test_the_cache_is_where_xdg_says_or_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast/cache")
    assert downloads.cache("mnist") == Path("/fast/cache/layerwise/mnist")
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert downloads.cache("mnist") == Path("/home/someone/.cache/layerwise/mnist")


def mnist_files() -> dict[str, bytes]:
    files = {}
    for name in idx.FILES:
        shape = (2, 28, 28) if "images" in name else (2,)
        header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
        files[f"{name}.gz"] = gzip.compress(header + bytes(2 * (784 if "images" in name else 1)))
    return files


def test_a_data_set_fills_the_cache_with_what_is_missing_and_is_then_read_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = mnist_files()
    cached = downloads.cache("mnist")
    cached.mkdir(parents=True)
    (cached / "t10k-labels-idx1-ubyte").write_bytes(gzip.decompress(files["t10k-labels-idx1-ubyte.gz"]))
    home = Home(files)
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    source = Source((home.address,), md5s)
    with home.serving():
        first = datasets.load(DataConfig(dataset="mnist"), source=source)
    again = datasets.load(DataConfig(dataset="mnist"), source=source)
    assert home.asked == [name for name in files if name != "t10k-labels-idx1-ubyte.gz"]
    assert whole(first).train_x.shape == whole(again).train_x.shape == (2, 1, 28, 28)


def test_cifar10_is_downloaded_as_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = Source((nobody,), cifar10.PUBLISHED.source.files)
    with pytest.raises(
        ConfigError, match=r"cifar10 cannot be downloaded .*: get cifar-10-binary\.tar\.gz from "
    ):
        datasets.load(DataConfig(dataset="cifar10"), source=source)
