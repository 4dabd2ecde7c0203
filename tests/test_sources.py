"""Data sets by name: what is read, what is refused, and what happens when files are missing or damaged."""

import contextlib
import gzip
import hashlib
import http.server
import io
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bsexp.data import sources
from bsexp.errors import DataError, SetupError, UsageError

ROOT = Path(__file__).parents[1]


def idx(array):
    """An IDX file's bytes, written by the description at yann.lecun.com."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def md5(content):
    return hashlib.md5(content).hexdigest()


def small(num, classes, *, seed=0, first=0, side=28):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (num, side, side), dtype=np.uint8), first + np.arange(num) % classes


def idx_files(classes=10):
    """The four files of a small MNIST, gzipped, and their arrays."""
    arrays = [*small(20, classes), *small(10, classes, seed=1)]
    return {name: gzip.compress(idx(array)) for name, array in zip(sources.IDX_FILES, arrays, strict=True)}, arrays


class Server:
    """A real HTTP server on 127.0.0.1. `files` is what it has, `cut` limits the bytes sent, `asked` what was wanted."""

    def __init__(self):
        self.files, self.asked, self.cut, self.delay = {}, [], None, 0.0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path[1:])
                time.sleep(outer.delay)
                content = outer.files.get(self.path[1:])
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: outer.cut])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("BSEXP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(sources, "FASHION_FOLDER", tmp_path / "not installed")
    return tmp_path / "data"


@pytest.fixture
def mnist(server, monkeypatch):
    """MNIST's addresses lead to a small one on the server; gives its arrays."""
    from torchvision.datasets import MNIST

    files, arrays = idx_files()
    server.files.update(files)
    monkeypatch.setattr(MNIST, "mirrors", [server.url])
    monkeypatch.setattr(MNIST, "resources", [(name, md5(content)) for name, content in files.items()])
    return arrays


def visible(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def same(images, arrays):
    found = (images.train_images, images.train_labels, images.test_images, images.test_labels)
    for tensor, array in zip(found, arrays, strict=True):
        assert tensor.dtype == (torch.int64 if tensor.ndim == 1 else torch.uint8)
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy(), array)
    return True


# --- built in ---------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_brought_to_eight_bits():
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = sources.load_images("digits")
    assert images.image_shape == (1, 8, 8)
    assert images.num_classes == 10
    # 16 sixteenths are 255, 8 are 127.5 cut to 127, 1 is 15.9 cut to 15.
    scale = {0: 0, 1: 15, 4: 63, 8: 127, 15: 239, 16: 255}
    found = torch.cat([images.train_images, images.test_images]).flatten(1)
    labels = torch.cat([images.train_labels, images.test_labels])
    expected = sorted((*row.tolist(), label) for row, label in zip(raw.data.astype(int), raw.target, strict=True))
    ranks = {value: rank for rank, value in enumerate(sorted(set(found.flatten().tolist())))}
    assert {rank: value for value, rank in ranks.items() if rank in scale} == scale
    back = sorted((*(ranks[v] for v in row), label) for row, label in zip(found.tolist(), labels.tolist(), strict=True))
    assert back == expected


def test_digits_split_is_stratified_and_the_same_for_everybody():
    torch.manual_seed(1)
    once = sources.load_images("digits")
    torch.manual_seed(2)
    again = sources.load_images("digits")
    assert torch.equal(once.test_images, again.test_images)
    assert len(once.train_images) == 1437 == sources.count_train("digits")
    # Class counts 178 182 177 183 181 182 181 179 174 180 of 1797, times 360: the floors make 355; the five largest
    # remainders are classes 7 (.860), 8 (.858), 3 (.661), 0 (.659) and 1 (.461, a tie with 5).
    assert once.test_labels.bincount().tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    # Frozen: another split would make old and new results differ in silence.
    assert hashlib.sha256(once.test_images.numpy().tobytes()).hexdigest()[:16] == "3ebc246f31ee648a"


def test_names_are_asked_about_without_torch():
    code = """
        import sys
        from bsexp.data.sources import available, count_train, fingerprint
        for name in ("digits", "mnist", "fashion-mnist", "cifar10", "svhn"):
            available(name), count_train(name), fingerprint(name)
        print(sorted({"torch", "torchvision", "numpy", "sklearn", "PIL", "pandas"} & set(sys.modules)))
    """
    assert python(code) == "[]\n"


def python(code, **environment):
    import os

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_working_torchvision_digits_load_and_others_name_the_cure(tmp_path):
    # A stand-in for wheels that do not match: a package of that name which fails as the real one does.
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    code = """
        from bsexp.data.sources import load_images
        print(len(load_images("digits").train_labels))
        try:
            load_images("cifar10")
        except Exception as error:
            print(type(error).__name__, error)
    """
    count, line = python(code, PYTHONPATH=f"{tmp_path}:{ROOT}").splitlines()
    assert count == "1437"
    assert line == (
        "SetupError torchvision: operator torchvision::nms does not exist; "
        "install matching wheels: pip install --force-reinstall torch torchvision"
    )
    assert SetupError.exit_code == 6


def test_unknown_name_and_a_size_where_none_is_allowed_are_usage_errors():
    for ask in (sources.load_images, sources.count_train, sources.fingerprint, sources.available):
        with pytest.raises(UsageError, match="did you mean 'fashion-mnist'"):
            ask("fashion-mnits")
    with pytest.raises(UsageError, match="image_size"):
        sources.load_images("digits", image_size=16)


# --- Debian's Fashion-MNIST -------------------------------------------------------------------------------------------


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """A small installed Fashion-MNIST with sums that fit; gives its folder and arrays."""
    folder = tmp_path / "installed"
    folder.mkdir()
    files, arrays = idx_files()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sums = {name: hashlib.sha256(gzip.decompress(content)).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(sources, "FASHION_FOLDER", folder)
    monkeypatch.setattr(sources, "FASHION_SHA256", sums)
    return folder, arrays


def replace(fashion, name, array_bytes):
    """Another content, with a sum that fits it."""
    (fashion[0] / name).write_bytes(gzip.compress(array_bytes))
    sources.FASHION_SHA256[name] = hashlib.sha256(array_bytes).hexdigest()


def test_installed_fashion_mnist_needs_no_download(fashion):
    folder, (train, train_labels, test, test_labels) = fashion
    images = sources.load_images("fashion-mnist")
    assert same(images, (train[..., None], train_labels, test[..., None], test_labels))
    assert sources.available("fashion-mnist") == str(folder)
    assert images.num_classes == 10


def test_flipped_byte_is_told_with_both_sums(fashion):
    folder, arrays = fashion
    path = folder / "t10k-labels-idx1-ubyte.gz"
    expected = hashlib.sha256(idx(arrays[3])).hexdigest()
    damaged = idx(arrays[3])[:-1] + b"\x03"
    path.write_bytes(gzip.compress(damaged))
    with pytest.raises(DataError) as caught:
        sources.load_images("fashion-mnist")
    text = str(caught.value)
    assert str(path) in text
    assert expected in text
    assert hashlib.sha256(damaged).hexdigest() in text
    assert "reinstall the package dataset-fashion-mnist" in text
    assert "\n" not in text


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_cut_archive_is_damage(fashion, keep):
    path = fashion[0] / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz.* expected"):
        sources.load_images("fashion-mnist")


def test_any_flipped_byte_of_the_archive_is_damage_or_harmless(fashion):
    path = fashion[0] / "train-labels-idx1-ubyte.gz"
    whole, labels = path.read_bytes(), fashion[1][1]
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with contextlib.suppress(DataError):  # the time stamp in gzip's header may be anything
            assert sources.load_images("fashion-mnist").train_labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-images-idx3-ubyte.gz", idx(np.zeros(20)), "magic number 00000801, expected 00000803"),
        ("train-labels-idx1-ubyte.gz", b"PK\3\4" + bytes(20), "magic number 504b0304, expected 00000801"),
        ("train-labels-idx1-ubyte.gz", b"", "magic number , expected 00000801"),
        ("train-labels-idx1-ubyte.gz", idx(np.zeros(20))[:6], "ends after 6 bytes"),
        ("train-labels-idx1-ubyte.gz", idx(np.zeros(20))[:-1], r"19 values for the sizes \(20,\)"),
        ("train-labels-idx1-ubyte.gz", idx(np.zeros(19)), "20 images, 19 labels"),
        ("train-labels-idx1-ubyte.gz", idx(np.full(20, 10)), "label 10 is out of range, 10 classes"),
        ("t10k-images-idx3-ubyte.gz", idx(np.zeros((10, 27, 28))), r"\(28, 28, 1\) and test images \(27, 28, 1\)"),
        ("t10k-images-idx3-ubyte.gz", idx(np.zeros((0, 28, 28))), "0 images, 10 labels"),
    ],
)
def test_content_that_is_not_the_data_set_is_refused(fashion, name, content, words):
    replace(fashion, name, content)
    with pytest.raises(DataError, match=words):
        sources.load_images("fashion-mnist")


def test_missing_file_of_the_installed_four_is_damage(fashion):
    (fashion[0] / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz.*reinstall"):
        sources.load_images("fashion-mnist")


INSTALLED = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not INSTALLED.exists(), reason="the package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(monkeypatch):
    monkeypatch.setattr(sources, "FASHION_FOLDER", INSTALLED)
    images = sources.load_images("fashion-mnist")
    assert images.train_images.shape == (60000, 28, 28, 1)
    assert images.train_labels.bincount().tolist() == [6000] * 10
    assert images.test_labels.bincount().tolist() == [1000] * 10
    # The published beginning of the test labels, and the published mean and deviation of the training pixels.
    assert images.test_labels[:5].tolist() == [9, 2, 1, 1, 6]
    pixels = images.train_images.double() / 255
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (0.2860, 0.3530)


# --- downloads --------------------------------------------------------------------------------------------------------


def test_mnist_is_downloaded_once_and_then_read_from_disk(server, mnist, data):
    train, train_labels, test, test_labels = mnist
    assert sources.available("mnist") is None
    images = sources.load_images("mnist")
    assert same(images, (train[..., None], train_labels, test[..., None], test_labels))
    assert sorted(server.asked) == sorted(sources.IDX_FILES)
    assert visible(data) == sorted(sources.IDX_FILES)
    assert sources.available("mnist") == str(data / "MNIST" / "raw")
    server.close()
    assert same(sources.load_images("mnist"), (train[..., None], train_labels, test[..., None], test_labels))


def test_the_next_mirror_is_tried(server, mnist, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [server.url + "gone/", server.url])
    assert len(sources.load_images("mnist").train_labels) == 20


def test_refused_connection_says_how_to_get_the_files(mnist, data, monkeypatch):
    from torchvision.datasets import MNIST

    with socket.socket() as free:  # bound, never listening: connections to it are refused
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{free.getsockname()[1]}/"])
        with pytest.raises(DataError, match="refused") as caught:
            sources.load_images("mnist")
    assert f"into {data / 'MNIST' / 'raw'} by hand" in str(caught.value)
    assert "BSEXP_DATA_DIR" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert visible(data) == []


def test_silent_server_is_given_up(server, mnist, data, monkeypatch):
    server.delay = 2.0
    monkeypatch.setattr(sources.cache, "TIMEOUT_SECONDS", 0.2)
    with pytest.raises(DataError, match="timed out"):
        sources.load_images("mnist")
    assert visible(data) == []


def test_half_download_is_never_used_and_the_next_try_succeeds(server, mnist, data):
    server.cut = 100
    with pytest.raises(DataError, match="cut short or changed"):
        sources.load_images("mnist")
    # The labels' files are shorter than the cut, but the images come first.
    assert visible(data) == []
    assert not list(data.rglob("*.part"))
    server.cut = None
    assert len(sources.load_images("mnist").train_labels) == 20


def test_what_a_killed_download_left_is_cleared_away(server, mnist, data):
    left = data / "MNIST" / "raw" / ".train-images-idx3-ubyte.gz.part"
    left.mkdir(parents=True)
    (left / "train-images-idx3-ubyte.gz").write_bytes(b"half")
    assert len(sources.load_images("mnist").train_labels) == 20
    assert not left.exists()


def test_files_put_there_by_hand_are_kept_and_completed(server, mnist, data):
    raw = data / "MNIST" / "raw"
    raw.mkdir(parents=True)
    name = sources.IDX_FILES[0]
    (raw / name).write_bytes(server.files[name])
    sources.load_images("mnist")
    assert sorted(server.asked) == sorted(sources.IDX_FILES[1:])


def test_damage_after_the_download_is_found_at_each_load(server, mnist, data):
    sources.load_images("mnist")
    path = data / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    damaged = whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]
    path.write_bytes(damaged)
    with pytest.raises(DataError) as caught:
        sources.load_images("mnist")
    assert str(caught.value) == (
        f"mnist: {path}: MD5 {md5(damaged)}, expected {md5(whole)}; delete {path} and start again"
    )
    path.unlink()
    sources.load_images("mnist")
    assert server.asked.count(path.name) == 2


def test_data_folder_that_is_a_file(server, mnist, data):
    data.write_text("")
    with pytest.raises(DataError, match="set BSEXP_DATA_DIR"):
        sources.load_images("mnist")


def test_two_processes_download_once(server, mnist, data):
    server.delay = 0.3
    code = f"""
        import sys
        import torchvision.datasets
        from bsexp.data.sources import load_images
        torchvision.datasets.MNIST.mirrors = [{server.url!r}]
        torchvision.datasets.MNIST.resources = {[(n, md5(server.files[n])) for n in sources.IDX_FILES]!r}
        print("ready", flush=True)
        sys.stdin.readline()
        print(int(load_images("mnist").train_images.sum()))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    sums = [process.communicate(timeout=60)[0] for process in both]
    assert sums == [f"{mnist[0].sum()}\n"] * 2
    assert sorted(server.asked) == sorted(sources.IDX_FILES)


@pytest.mark.parametrize(("name", "classes", "first"), [("emnist-letters", 26, 1), ("emnist-balanced", 47, 0)])
def test_emnist_is_turned_upright_and_counts_from_zero(server, data, monkeypatch, name, classes, first):
    from torchvision.datasets import EMNIST

    train, train_labels = small(60, classes, first=first)
    test, test_labels = small(50, classes, first=first, seed=1)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for part, array in (
            ("train-images-idx3", train),
            ("train-labels-idx1", train_labels),
            ("test-images-idx3", test),
            ("test-labels-idx1", test_labels),
        ):
            archive.writestr(f"gzip/{name}-{part}-ubyte.gz", gzip.compress(idx(array)))
    server.files["gzip.zip"] = content.getvalue()
    monkeypatch.setattr(EMNIST, "url", server.url + "gzip.zip")
    monkeypatch.setattr(EMNIST, "md5", md5(content.getvalue()))
    images = sources.load_images(name)
    assert images.num_classes == classes
    assert int(images.train_images[7, 3, 20, 0]) == train[7, 20, 3]
    upright = [np.stack([image.T for image in split])[..., None] for split in (train, test)]
    assert same(images, (upright[0], train_labels - first, upright[1], test_labels - first))
    if name == "emnist-letters":
        with pytest.raises(DataError, match=r"gzip/emnist-digits-train-images-idx3-ubyte\.gz can't be unpacked"):
            sources.load_images("emnist-digits")


@pytest.fixture
def cifar(server, monkeypatch):
    """A small CIFAR-10 in the real form: a tar.gz of pickles, rows of 3072 values, colour planes first."""
    from torchvision.datasets import CIFAR10

    draw = np.random.default_rng(3)
    parts = {
        name: {"data": draw.integers(0, 256, (12, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(12)]}
        for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    }
    files = {name: pickle.dumps(part) for name, part in parts.items()}
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    server.files["cifar-10-python.tar.gz"] = content.getvalue()
    monkeypatch.setattr(CIFAR10, "url", server.url + "cifar-10-python.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(content.getvalue()))
    monkeypatch.setattr(
        CIFAR10, "train_list", [[f"data_batch_{n}", md5(files[f"data_batch_{n}"])] for n in range(1, 6)]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(files["test_batch"])]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(files["batches.meta"])})
    return parts


def test_cifar_from_its_archive(server, cifar, data):
    images = sources.load_images("cifar10")
    assert images.image_shape == (3, 32, 32)
    assert (len(images.train_labels), len(images.test_labels)) == (60, 12)
    # Image 13 is number 1 of the second file; its green value in row 2, column 5 is number 1024 + 2 * 32 + 5.
    assert int(images.train_images[13, 2, 5, 1]) == cifar["data_batch_2"]["data"][1, 1024 + 2 * 32 + 5]
    assert images.train_images.is_contiguous()
    assert sources.available("cifar10") == str(data)


def test_cifar_damage_names_the_file_and_the_kept_archive_mends_it(server, cifar, data):
    import shutil

    sources.load_images("cifar10")
    folder = data / "cifar-10-batches-py"
    (folder / "data_batch_3").write_bytes((folder / "data_batch_3").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3: MD5 \w+, expected"):
        sources.load_images("cifar10")
    shutil.rmtree(folder)
    assert len(sources.load_images("cifar10").train_labels) == 60
    assert server.asked == ["cifar-10-python.tar.gz"]


def test_damaged_cifar_archive_is_not_unpacked(cifar, data):
    data.mkdir()
    (data / "cifar-10-python.tar.gz").write_bytes(b"half")
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: MD5"):
        sources.load_images("cifar10")
    assert visible(data) == ["cifar-10-python.tar.gz"]


def test_svhn_from_its_matlab_files(server, data, monkeypatch):
    import scipy.io
    from torchvision.datasets import SVHN

    draw = np.random.default_rng(4)
    arrays, entries = {}, {}
    for split in ("train", "test"):
        pixels, labels = draw.integers(0, 256, (32, 32, 3, 14), dtype=np.uint8), 1 + np.arange(14) % 10
        file = io.BytesIO()
        scipy.io.savemat(file, {"X": pixels, "y": labels[:, None].astype(np.uint8)})
        name = f"{split}_32x32.mat"
        server.files[name] = file.getvalue()
        arrays[split], entries[split] = (pixels, labels), [server.url + name, name, md5(file.getvalue())]
    monkeypatch.setattr(SVHN, "split_list", entries)
    images = sources.load_images("svhn")
    expected = []
    for split in ("train", "test"):
        pixels, labels = arrays[split]
        # In the file the images are the last axis, and a 10 stands for the digit 0.
        expected += [np.stack([pixels[..., i] for i in range(14)]), labels % 10]
    assert same(images, expected)
    (data / "test_32x32.mat").write_bytes(b"")
    with pytest.raises(DataError, match=r"test_32x32\.mat: MD5 d41d8cd98f00b204e9800998ecf8427e"):
        sources.load_images("svhn")


# --- the user's factory -----------------------------------------------------------------------------------------------


@pytest.fixture
def factory(monkeypatch):
    """Makes a module with a factory that returns what it is given, and gives its name."""
    import types

    def make(returned):
        module = types.ModuleType("own_data")
        module.make = returned if callable(returned) else lambda: returned
        monkeypatch.setitem(sys.modules, "own_data", module)
        return "own_data:make"

    return make


def pixels(*shape):
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


LABELS = np.arange(6) % 3


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("shape", "channels_first"),
    [
        ((6, 9, 7), None),
        ((6, 3, 9, 7), True),
        ((6, 1, 9, 7), True),
        ((6, 9, 7, 3), False),
        ((6, 3, 9, 3), False),  # ambiguous: the last size is a number of channels, so it is taken for it
    ],
)
def test_factory_may_order_its_axes(factory, shape, channels_first, kind):
    given, labels = pixels(*shape), LABELS.astype(np.int16)
    pair = (torch.tensor(given), torch.tensor(labels)) if kind == "torch" else (given, labels)
    images = sources.load_images(factory({"train": pair, "test": pair}))
    last = given[..., None] if channels_first is None else np.moveaxis(given, 1, 3) if channels_first else given
    assert same(images, (last, labels, last, labels))
    assert images.num_classes == 3


def test_factory_may_give_read_only_and_strided_arrays(factory):
    given = pixels(12, 8, 8)[::-2]
    given.flags.writeable = False
    images = sources.load_images(factory({"train": (given, LABELS), "test": (given, LABELS.tolist())}))
    assert same(images, (given[..., None], LABELS, given[..., None], LABELS))


def test_classes_are_counted_in_both_splits(factory):
    pair = (pixels(6, 8, 8), LABELS)
    name = factory({"train": pair, "test": (pixels(2, 8, 8), np.array([0, 4]))})
    assert sources.load_images(name).num_classes == 5
    assert sources.count_train(name) == 6


GOOD = (np.zeros((6, 8, 8), np.uint8), LABELS)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "no 'train' in what the factory returned: NoneType"),
        ({"train": GOOD, "val": GOOD}, r"no 'test' in what the factory returned: \['train', 'val'\]"),
        ({"train": GOOD, "test": GOOD[0]}, "'test' is not a pair but ndarray"),
        ({"train": (GOOD[0].astype("f4"), LABELS), "test": GOOD}, r"training data: images are float32 \(6, 8, 8\)"),
        ({"train": GOOD, "test": (GOOD[0][0], LABELS)}, r"test data: images are uint8 \(8, 8\)"),
        ({"train": (pixels(6, 4, 8, 8), LABELS), "test": GOOD}, r"uint8 \(6, 4, 8, 8\): 1 or 3 channels"),
        ({"train": (GOOD[0], LABELS[:5]), "test": GOOD}, "6 images, 5 labels"),
        ({"train": (GOOD[0], LABELS / 2), "test": GOOD}, r"labels are float64 \(6,\)"),
        ({"train": (GOOD[0], LABELS > 0), "test": GOOD}, r"labels are bool \(6,\)"),
        ({"train": (GOOD[0], LABELS[:, None]), "test": GOOD}, r"labels are int64 \(6, 1\)"),
        ({"train": (GOOD[0], LABELS - 1), "test": GOOD}, "label -1 is negative"),
        ({"train": (GOOD[0], LABELS * 0 + 5), "test": GOOD}, "all training labels are 5"),
        ({"train": (GOOD[0], LABELS + 1000), "test": GOOD}, "label 1002 makes 1003 classes of 6 training images"),
        ({"train": GOOD, "test": (GOOD[0][:0], LABELS[:0])}, r"test data: images are uint8 \(0, 8, 8\): empty"),
        ({"train": GOOD, "test": (pixels(6, 8, 8, 3), LABELS)}, r"\(8, 8, 1\) and test images \(8, 8, 3\)"),
        ({"train": ([[1], [1, 2]], LABELS), "test": GOOD}, "list is not an array"),
        (lambda: 1 / 0, "the factory failed: ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_factory_may_not_return(factory, returned, words):
    with pytest.raises(DataError, match=words) as caught:
        sources.load_images(factory(returned))
    assert "\n" not in str(caught.value)


def test_factory_is_known_by_its_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = b"def make():\n    raise SystemError\n"
    (tmp_path / "own_source_data.py").write_bytes(text)
    name = "own_source_data:make"
    assert sources.fingerprint(name) == hashlib.sha256(text).hexdigest()[:16]
    assert sources.available(name) == "module own_source_data"
    with pytest.raises(UsageError, match="has no 'other'"):
        sources.load_images("own_source_data:other")


def test_data_folder_is_the_users_cache_unless_set(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sources.data_folder() == tmp_path / "data"
    monkeypatch.delenv("BSEXP_DATA_DIR")
    if sys.platform.startswith("linux"):
        assert sources.data_folder() == tmp_path / "bsexp"
