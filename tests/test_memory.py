"""Images larger than what a run may hold in memory: a real process, a real mapping, the kernel's own count."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]

# A model of one layer, so that what a batch costs is small beside the images. `held`: bytes of memory that no file
# stands behind; pages of a mapped file can be dropped at any time and don't count.
MODULE = """
    import numpy as np
    import torch


    def net(image_shape, num_classes):
        channels, height, width = image_shape
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * height * width, num_classes))


    def data():
        train, test = (np.load(f"{split}.npy", mmap_mode="r") for split in ("train", "test"))
        return {split: (images, np.arange(len(images)) % 10) for split, images in (("train", train), ("test", test))}


    def held():
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
"""

PROGRAM = """
    import sys
    import mine
    from bsexp import RunConfig, Training

    def train(name, image_size, epochs):
        config = RunConfig(
            schedule="fixed-small", dataset=name, image_size=image_size, model="mine:net", batch_size=32, lr=1e-3,
            epochs=epochs, evals=1, label_noise=0.02, averaging="none", augment=True,
        )
        return [mine.held() for record in Training(config, device="cpu")]

    name, size = sys.argv[1], int(sys.argv[2]) or None
    train("digits", None, 0.1)  # so that imports and first steps don't count
    before = mine.held()
    print(max(train(name, size, 0.02)) - before)
"""


def growth(folder: Path, name: str, image_size: int) -> int:
    """Bytes of memory that a fiftieth of an epoch on `name` adds to a fresh process."""
    (folder / "mine.py").write_text(textwrap.dedent(MODULE))
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM))
    environment = {"PYTHONPATH": f"{ROOT}", "BSEXP_DATA_DIR": f"{folder / 'data'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "program.py", name, f"{image_size}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the kernel's count of memory")


def test_a_mapped_array_is_not_held_in_memory(tmp_path: Path) -> None:
    # Holes in files: as large as told, and nothing to write.
    for split, number in (("train", 500_000), ("test", 1000)):
        np.lib.format.open_memmap(tmp_path / f"{split}.npy", "w+", np.uint8, (number, 32, 32, 3))
    assert (tmp_path / "train.npy").stat().st_size > 1.5e9
    # Labels, order, offsets and mirrors of half a million samples are 24 MB; the validation images alone are 154 MB.
    assert growth(tmp_path, "mine:data", 0) < 120e6


def test_a_decoded_folder_is_not_held_in_memory(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    for label in "ab":
        (tmp_path / "pictures" / label).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / label / "0.png")
        for number in range(1, 3000):
            (tmp_path / "pictures" / label / f"{number}.png").hardlink_to(tmp_path / "pictures" / label / "0.png")
    # 4,320 x 128 x 128 x 3 bytes are 212 MB of training images. A block of evaluation, 256 of them as floats, is 50 MB.
    assert growth(tmp_path, "folder:pictures", 128) < 160e6
