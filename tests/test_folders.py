"""`folder:PATH`: what is listed, what an image becomes, what is refused, and the decoded copy on disk."""

import hashlib
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bsexp.data import folders, sources
from bsexp.errors import DataError, UsageError

ROOT = Path(__file__).parents[1]
CIFAR = ROOT.parent / "shared" / "data" / "cifar10-jpg.tar.xz"


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("BSEXP_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make(root, classes, *, shape=(8, 8, 3)):
    """PNG files of noise: `classes` maps folder to number of images. Gives folder -> arrays in the order of names."""
    return {
        name: [save(root / name / f"{i:02}.png", noise(100 * n + i, *shape)) for i in range(number)]
        for n, (name, number) in enumerate(classes.items())
    }


def load(root, size=8):
    return sources.load_images(f"folder:{root}", image_size=size)


# --- what is there ----------------------------------------------------------------------------------------------------


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    root = tmp_path / "pictures"
    made = make(root, {"train/cat": 3, "train/ant": 2, "test/cat": 1, "test/ant": 2})
    images = load(root)
    # Classes by name: ant is 0, cat is 1.
    assert images.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert images.test_labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(images.train_images.numpy(), np.stack(made["train/ant"] + made["train/cat"]))
    np.testing.assert_array_equal(images.test_images.numpy(), np.stack(made["test/ant"] + made["test/cat"]))
    assert (images.image_shape, images.num_classes) == ((3, 8, 8), 2)
    assert (images.train_images.dtype, images.train_labels.dtype) == (torch.uint8, torch.int64)
    assert sources.count_train(f"folder:{root}") == 5
    assert sources.available(f"folder:{root}") == str(root)


def test_split_of_ones_own_takes_a_fifth_of_each_class(tmp_path):
    root = tmp_path / "pictures"
    made = make(root, {"a": 10, "b": 14, "c": 21})
    images = load(root)
    # 45 images, 9 for test: shares 2, 2.8 and 4.2.
    assert images.test_labels.tolist() == [0] * 2 + [1] * 3 + [2] * 4
    assert images.train_labels.tolist() == [0] * 8 + [1] * 11 + [2] * 17
    assert sources.count_train(f"folder:{root}") == 36
    everything = {array.tobytes(): label for label, name in enumerate(made) for array in made[name]}
    for split, labels in ((images.train_images, images.train_labels), (images.test_images, images.test_labels)):
        for image, label in zip(split, labels.tolist(), strict=True):
            assert everything.pop(image.numpy().tobytes()) == label
    assert not everything


def test_split_does_not_depend_on_place_times_or_state(tmp_path, monkeypatch):
    make(tmp_path / "one", {"a": 10, "b": 15})
    make(tmp_path / "two", {"b": 15, "a": 10})
    for number in range(10):  # the same pictures: the seeds of `make` follow the order it was told
        for name in ("a", "b"):
            source = tmp_path / "one" / name / f"{number:02}.png"
            (tmp_path / "two" / name / f"{number:02}.png").write_bytes(source.read_bytes())
    for number in range(10, 15):
        (tmp_path / "two" / "b" / f"{number}.png").write_bytes((tmp_path / "one" / "b" / f"{number}.png").read_bytes())
    torch.manual_seed(3)
    one = load(tmp_path / "one")
    monkeypatch.setenv("BSEXP_DATA_DIR", str(tmp_path / "other data"))
    two = load(tmp_path / "two")
    assert torch.equal(one.test_images, two.test_images)
    assert sources.fingerprint(f"folder:{tmp_path / 'one'}") == sources.fingerprint(f"folder:{tmp_path / 'two'}")


def test_fingerprint_is_that_of_names_and_sizes(tmp_path):
    root = tmp_path / "pictures"
    for name, size in {"b/2.png": 5, "b/1.JPG": 3, "a/9.png": 2, "a/8.png": 1}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)
    expected = hashlib.sha256(b"a/8.png\x001\na/9.png\x002\nb/1.JPG\x003\nb/2.png\x005\n").hexdigest()[:16]
    name = f"folder:{root}"
    assert sources.fingerprint(name) == expected
    (root / "README.txt").write_text("stray")
    assert sources.fingerprint(name) == expected
    (root / "a" / "8.png").write_bytes(b"xx")
    assert sources.fingerprint(name) != expected


def test_strays_and_hidden_entries_are_ignored(tmp_path):
    root = tmp_path / "pictures"
    make(root, {"a": 3, "b": 3, ".git": 2})
    for stray in ("README.md", "a/.DS_Store", "a/._00.png", "b/labels.csv", "b/Thumbs.db"):
        (root / stray).write_text("stray")
    images = load(root)
    assert images.num_classes == 2
    assert len(images.train_labels) + len(images.test_labels) == 6


def test_all_kinds_of_files_in_any_case(tmp_path):
    root = tmp_path / "pictures"
    for number, suffix in enumerate(folders.EXTENSIONS):
        for label in "ab":
            save(root / label / f"{number}{suffix.upper() if number % 2 else suffix}", noise(number, 8, 8, 3))
    assert [len(split) for split in (load(root).train_labels, load(root).test_labels)] == [16, 4]


def test_listing_needs_neither_torch_nor_pillow(tmp_path):
    make(tmp_path / "pictures", {"a": 3, "b": 2})
    code = f"""
        import sys
        from bsexp.data.sources import available, count_train, fingerprint
        name = "folder:{tmp_path / "pictures"}"
        print(available(name), count_train(name), len(fingerprint(name)))
        print(sorted({{"torch", "torchvision", "numpy", "PIL"}} & set(sys.modules)))
    """
    assert python(code) == f"{tmp_path / 'pictures'} 4 16\n[]\n"


def python(code, **environment):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what an image becomes --------------------------------------------------------------------------------------------


def decoded(path, size):
    return folders.decode(folders.File(path, 0, 0, 0), size)


def test_an_image_of_the_size_is_left_as_it_is(tmp_path):
    array = save(tmp_path / "a.png", noise(1, 12, 12, 3))
    np.testing.assert_array_equal(decoded(tmp_path / "a.png", 12), array)


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (20, 20), (5, 9), (17, 100)])
def test_other_sizes_are_brought_to_the_shorter_side_and_cut_in_the_middle(tmp_path, height, width):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, resize

    # Smooth, so that a shift by a pixel or a missing anti-alias shows against what torchvision makes of it.
    rows, columns = np.mgrid[0:height, 0:width]
    array = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 16 * 15], -1).astype(np.uint8)
    save(tmp_path / "a.png", array)
    found = decoded(tmp_path / "a.png", 16)
    assert found.shape == (16, 16, 3)
    same = center_crop(resize(Image.fromarray(array), 16, InterpolationMode.BICUBIC, antialias=True), [16, 16])
    difference = np.abs(found.astype(int) - np.asarray(same).astype(int))
    # Where the longer side comes out odd, torchvision cuts half a pixel elsewhere: one column of the ramp at most.
    assert difference[..., :2].max() <= 255 // 16 + 1
    if (height, width) != (17, 100):
        assert difference[..., :2].max() <= 8


def test_square_images_are_resized_like_torchvision_does(tmp_path):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    array = save(tmp_path / "a.png", noise(2, 40, 40, 3))
    expected = resize(Image.fromarray(array), 16, InterpolationMode.BICUBIC, antialias=True)
    np.testing.assert_array_equal(decoded(tmp_path / "a.png", 16), np.asarray(expected))


def test_the_centre_is_kept(tmp_path):
    array = np.zeros((8, 24, 3), np.uint8)
    array[:, 8:16] = 200
    save(tmp_path / "a.png", array)
    assert (decoded(tmp_path / "a.png", 8) == 200).all()


def test_wide_grey_values_are_cut_to_eight_bits_not_clipped(tmp_path):
    array = (np.arange(64).reshape(8, 8) * 1024).astype(np.uint16)
    save(tmp_path / "a.png", array)
    save(tmp_path / "a.tif", array)
    # 1024 k of 65536 is 4 k of 256.
    expected = 4 * np.arange(64).reshape(8, 8, 1)
    np.testing.assert_array_equal(decoded(tmp_path / "a.png", 8), expected)
    np.testing.assert_array_equal(decoded(tmp_path / "a.tif", 8), expected)


def test_palettes_and_transparency_become_colour(tmp_path):
    array = noise(3, 8, 8, 4)
    save(tmp_path / "alpha.png", array)
    np.testing.assert_array_equal(decoded(tmp_path / "alpha.png", 8), array[..., :3])
    palette = Image.fromarray(noise(4, 8, 8, 3)).quantize(16)
    # Transparency as bytes: Pillow warns when such an image is converted carelessly, and warnings are errors here.
    palette.save(tmp_path / "palette.png", transparency=bytes(range(16)))
    np.testing.assert_array_equal(decoded(tmp_path / "palette.png", 8), np.asarray(palette.convert("RGB")))


def test_grey_folders_have_one_channel(tmp_path):
    root = tmp_path / "pictures"
    made = make(root, {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1}, shape=(8, 8))
    save(root / "test" / "b" / "01.png", np.dstack([noise(7, 8, 8), noise(8, 8, 8)]))  # grey with alpha
    Image.fromarray(noise(9, 8, 8) > 127).save(root / "test" / "b" / "02.png")  # one bit
    images = load(root)
    assert images.image_shape == (1, 8, 8)
    np.testing.assert_array_equal(images.train_images[1, ..., 0].numpy(), made["train/b"][0])
    np.testing.assert_array_equal(images.test_images[2, ..., 0].numpy(), noise(7, 8, 8))
    assert images.test_images[3].unique().tolist() == [0, 255]


def test_size_is_32_unless_told(tmp_path):
    make(tmp_path / "pictures", {"a": 2, "b": 3})
    assert sources.load_images(f"folder:{tmp_path / 'pictures'}").image_shape == (3, 32, 32)
    with pytest.raises(UsageError, match="image_size"):
        load(tmp_path / "pictures", 0)


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(root, words, size=8):
    with pytest.raises(DataError, match=words) as caught:
        load(root, size)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_empty_folders(tmp_path):
    refused(tmp_path / "nowhere", "nowhere does not exist")
    assert sources.available(f"folder:{tmp_path / 'nowhere'}") is None
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "file is not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty has no class folders; it needs PATH/CLASS/IMAGES")
    with pytest.raises(UsageError):
        sources.load_images("folder:")


def test_one_class_only(tmp_path):
    make(tmp_path / "pictures", {"a": 3})
    refused(tmp_path / "pictures", "pictures has only one class, a")


def test_class_without_images(tmp_path):
    make(tmp_path / "pictures", {"a": 3, "c": 3})
    (tmp_path / "pictures" / "b").mkdir()
    (tmp_path / "pictures" / "b" / "notes.txt").write_text("")
    refused(tmp_path / "pictures", f"{tmp_path}/pictures/b has no images")


def test_class_of_one_image_can_not_be_split(tmp_path):
    make(tmp_path / "pictures", {"a": 3, "b": 1})
    refused(tmp_path / "pictures", "pictures/b has one image")


def test_different_classes_in_train_and_test(tmp_path):
    make(tmp_path / "pictures", {"train/a": 1, "train/b": 1, "train/c": 1, "test/a": 1, "test/c": 1})
    refused(tmp_path / "pictures", "train/b has no counterpart in test/")
    make(tmp_path / "more", {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1, "test/z": 1})
    refused(tmp_path / "more", "test/z has no counterpart in train/")


@pytest.mark.parametrize("content", [b"", b"hello", "half", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_undecodable_image_is_named_and_nothing_is_kept(tmp_path, data, content):
    root = tmp_path / "pictures"
    make(root, {"a": 3, "b": 3})
    path = root / "b" / "01.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    text = refused(root, f"{path} can't be read")
    assert text.count(str(path)) == 1
    assert [entry.name for entry in (data / "decoded").iterdir() if not entry.name.endswith(".lock")] == []


def test_dangling_link_is_not_left_out(tmp_path):
    make(tmp_path / "pictures", {"a": 3, "b": 3})
    (tmp_path / "pictures" / "a" / "99.png").symlink_to(tmp_path / "gone.png")
    refused(tmp_path / "pictures", r"99\.png can't be read: No such file")


def test_grey_and_colour_mixed_names_the_first_of_each(tmp_path):
    root = tmp_path / "pictures"
    make(root, {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    for name in ("a/02.png", "b/00.png"):
        save(root / "train" / name, noise(0, 8, 8))
    refused(root, f"{root}/train/a/02.png is grey and {root}/train/a/00.png is in colour")
    grey = tmp_path / "grey"
    make(grey, {"train/a": 1, "train/b": 1, "test/a": 2, "test/b": 1}, shape=(8, 8))
    save(grey / "test" / "a" / "01.png", noise(0, 8, 8, 3))
    refused(grey, f"{grey}/train/a/00.png is grey and {grey}/test/a/01.png is in colour")


def test_pixels_without_a_range_are_refused(tmp_path):
    root = tmp_path / "pictures"
    make(root, {"a": 2, "b": 2}, shape=(8, 8))
    Image.fromarray(np.ones((8, 8), np.float32)).save(root / "a" / "x.tif")
    refused(root, r"x\.tif can't be read: F pixels of 32 bits")


# --- the decoded copy -------------------------------------------------------------------------------------------------


def copies(data):
    return [path for path in (data / "decoded").iterdir() if not path.name.startswith(".")]


def test_decoded_copy_is_mapped_and_not_decoded_again(tmp_path, data, monkeypatch):
    root = tmp_path / "pictures"
    make(root, {"a": 5, "b": 5})
    first = load(root)
    (copy,) = copies(data)
    assert copy.name.startswith(sources.fingerprint(f"folder:{root}"))
    on_disk = np.load(copy / "train.npy")
    np.testing.assert_array_equal(on_disk, first.train_images.numpy())
    monkeypatch.setattr(folders, "decode", None)  # may not be called
    second = load(root)
    assert torch.equal(first.train_images, second.train_images)


def test_more_images_than_memory_can_be_mapped(tmp_path):
    # Twice the machine's memory, as a hole in a file; a mapping that could be written to is refused by the kernel.
    size = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**36
    number = size // (32 * 32 * 3)
    for name, length in (("train", number), ("test", 2)):
        with (tmp_path / f"{name}.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (length, 32, 32, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + length * 32 * 32 * 3)
    mapped = folders._map(tmp_path, (range(number), range(2)), 32)
    assert mapped is not None
    assert folders.tensor_of(mapped[0])[number - 1].sum() == 0


def test_sizes_have_copies_of_their_own(tmp_path, data):
    make(tmp_path / "pictures", {"a": 3, "b": 3})
    assert load(tmp_path / "pictures", 8).image_shape == (3, 8, 8)
    assert load(tmp_path / "pictures", 16).image_shape == (3, 16, 16)
    assert load(tmp_path / "pictures", 8).image_shape == (3, 8, 8)
    assert len(copies(data)) == 2


def test_retouched_image_of_the_same_name_and_size_is_decoded_again(tmp_path):
    root = tmp_path / "pictures"
    for label in "ab":
        for number in range(3):
            save(root / label / f"{number}.bmp", noise(number, 8, 8, 3))
    before = sources.fingerprint(f"folder:{root}")
    load(root)
    for label in "ab":
        for number in range(3):
            save(root / label / f"{number}.bmp", np.full((8, 8, 3), 77, np.uint8))
            os.utime(root / label / f"{number}.bmp", ns=(10**18, 10**18 + number))
    assert sources.fingerprint(f"folder:{root}") == before
    assert load(root).train_images.unique().tolist() == [77]


@pytest.mark.parametrize("damage", ["cut", "empty", "other shape", "other type", "missing", "a file", "not numpy"])
def test_damaged_copy_is_rebuilt(tmp_path, data, damage):
    root = tmp_path / "pictures"
    make(root, {"a": 5, "b": 5})
    expected = load(root).test_images.clone()
    (copy,) = copies(data)
    path = copy / "test.npy"
    whole = path.read_bytes()
    path.unlink()  # a new file: the old one may still be mapped
    if damage in ("cut", "empty", "not numpy"):
        path.write_bytes({"cut": whole[:-1], "empty": b"", "not numpy": b"x" * len(whole)}[damage])
    elif damage == "other shape":
        np.save(path, np.zeros((3, 8, 8, 3), np.uint8))
    elif damage == "other type":
        np.save(path, np.zeros((2, 8, 8, 3), np.int8))
    elif damage == "a file":
        (copy / "train.npy").unlink()
        copy.rmdir()
        copy.write_text("")
    assert torch.equal(load(root).test_images, expected)
    assert path.read_bytes() == whole
    assert len(copies(data)) == 1


def test_what_a_killed_process_left_is_not_used(tmp_path, data):
    root = tmp_path / "pictures"
    make(root, {"a": 5, "b": 5})
    expected = load(root).train_images.clone()
    (copy,) = copies(data)
    part = copy.with_name(f".{copy.name}.part")
    copy.rename(part)
    (part / "train.npy").write_bytes(b"half")
    assert torch.equal(load(root).train_images, expected)
    assert not part.exists()


def test_more_images_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "BLOCK", 4)
    made = make(tmp_path / "pictures", {"train/a": 7, "train/b": 6, "test/a": 4, "test/b": 5})
    images = load(tmp_path / "pictures")
    np.testing.assert_array_equal(images.train_images.numpy(), np.stack(made["train/a"] + made["train/b"]))
    np.testing.assert_array_equal(images.test_images.numpy(), np.stack(made["test/a"] + made["test/b"]))


def test_two_processes_decode_once(tmp_path, data):
    root = tmp_path / "pictures"
    made = make(root, {"a": 200, "b": 200})
    code = f"""
        import sys
        from bsexp.data import folders, sources
        import torch, numpy, PIL.Image, bsexp.data.splits
        calls = []
        decode = folders.decode
        folders.decode = lambda *given: calls.append(1) or decode(*given)
        print("ready", flush=True)
        sys.stdin.readline()
        images = sources.load_images("folder:{root}", image_size=48)
        print(len(calls), int(images.train_images.sum()) + int(images.test_images.sum()))
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
    answers = sorted(process.communicate(timeout=60)[0].split() for process in both)
    # 400 images and once more the first, which decides about grey or colour.
    assert [int(calls) for calls, _ in answers] == [0, 401]
    assert answers[0][1] == answers[1][1]
    assert len(made["a"]) == 200
    assert len(copies(data)) == 1


def test_memory_does_not_grow_with_the_folder(tmp_path, data):
    root = tmp_path / "pictures"
    for label in "ab":
        for number in range(20):
            save(root / label / f"{number}.jpg", np.full((8, 8, 3), number, np.uint8))
    # In a process of its own: what other tests leave behind must not count.
    code = f"""
        import tracemalloc
        from bsexp.data import folders, sources
        folders.BLOCK = 2
        sources.load_images("folder:{root}")  # so that imports don't count
        tracemalloc.start()
        sources.load_images("folder:{root}", image_size=256)
        print(tracemalloc.get_traced_memory()[1])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    peak = int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    # 40 images of 256 x 256 x 3 bytes are 7.9 MB; a block of 2, three times over (images, stack, bytes), is 1.2 MB.
    assert 0.7e6 < peak < 3e6


# --- real photographs -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not CIFAR.exists(), reason="the CIFAR-10 photographs are not there")
def test_real_photographs(tmp_path):
    kept = dict.fromkeys(("airplane", "automobile", "bird"), 0)
    with tarfile.open(CIFAR) as archive:
        # The classes come in the order of names: only the beginning of the archive is read.
        for member in archive:
            split, _, name = member.name.rpartition("/")[0].partition("/")
            if split == "train" and member.isfile() and kept.get(name, 40) < 40:
                (tmp_path / member.name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / member.name).write_bytes(archive.extractfile(member).read())
                kept[name] += 1
            if min(kept.values()) == 40:
                break
    root = tmp_path / "train"
    images = load(root, 32)
    assert images.image_shape == (3, 32, 32)
    assert images.train_labels.bincount().tolist() == [32] * 3
    assert images.test_labels.bincount().tolist() == [8] * 3
    every = {np.asarray(Image.open(path)).tobytes() for path in root.rglob("*.jpg")}
    assert {image.numpy().tobytes() for split in (images.train_images, images.test_images) for image in split} == every
