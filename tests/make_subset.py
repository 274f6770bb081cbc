"""Make ``selfstab/data/_subset`` from the canonical files: ``python tests/make_subset.py FOLDER``.

Prints the size and SHA-256 of each file; the checksums belong into ``selfstab.data.sources.SUBSET_SHA256``.
"""

import hashlib
import lzma
import sys
from pathlib import Path

import numpy as np

from selfstab.data import images, samples, sentences, sources

IMAGES = {"train": (1000, 1000), "test": (500, 200)}  # the first of all classes; of cats and dogs together
SENTENCES = {"train": 1000, "test": 200}


def pack_images(indices: np.ndarray, records: np.ndarray) -> bytes:
    """Inverse of ``selfstab.data.images.subset``."""
    planes = records[:, 1:].reshape(-1, 3, 32, 32).swapaxes(0, 1).copy()
    planes[::2] -= planes[1]
    planes[..., 1:] -= planes[..., :-1].copy()
    planes[..., 1:, :] -= planes[..., :-1, :].copy()
    return indices.astype("<i4").tobytes() + records[:, 0].tobytes() + planes.tobytes()


def contents(folder: Path) -> dict[str, bytes]:
    """Uncompressed content of each file of the subset."""
    out = {}
    for split, sizes in IMAGES.items():
        parts = zip(("cifar10", "cats-dogs"), sizes, strict=True)
        found = [samples.first(name, n, split, images.parts, folder) for name, n in parts]
        indices, _, records = map(np.concatenate, zip(*found, strict=True))
        indices, positions = np.unique(indices, return_index=True)
        out[f"cifar10-{split}.xz"] = pack_images(indices, records[positions])
    for split, n in SENTENCES.items():
        rows = zip(*samples.first("sst2", n, split, sentences.parts, folder), strict=True)
        out[f"sst2-{split}.xz"] = "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()
    return out


def main(folder: Path) -> None:
    sources.SUBSET.mkdir(exist_ok=True)
    for name, raw in contents(folder).items():
        packed = lzma.compress(raw, preset=9)
        (sources.SUBSET / name).write_bytes(packed)
        print(f'    "{name}": "{hashlib.sha256(packed).hexdigest()}",  # {len(packed)} bytes')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
