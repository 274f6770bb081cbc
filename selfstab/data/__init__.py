"""Training data: the first n images of CIFAR-10, its cats and dogs, and balanced sentences of SST-2.

Bytes come from the first of three sources that has them.  The first is the folder given by argument or ``EOSLIB_DATA``
(in the canonical layout, ``cifar-10-batches-bin/data_batch_1.bin``, ``SST-2/train.tsv``, …).  The second is the small
subset inside this package, enough for every quick setting, and the third a download of the published archives into
``EOSLIB_CACHE``.  All give the same arrays bit for bit.

Images are standardized per channel over the *training* images requested, test images by the statistics of the ``fit``
first training images.  Likewise the vocabulary of SST-2 is that of the training sentences, or BERT's for the released
transformer.  Samples are in the order of
the canonical files, with classes mixed as they are there.

>>> data = cifar10_cats_dogs(10)
>>> data.inputs.shape, data.targets.tolist()[:4], data.indices.tolist()[:4]
((10, 32, 32, 3), [-1.0, -1.0, -1.0, -1.0], [9, 17, 21, 26])
"""

from __future__ import annotations

import dataclasses

import numpy as np

from selfstab.data.images import cifar10, cifar10_cats_dogs
from selfstab.data.samples import LARGEST, Dataset
from selfstab.data.sentences import sst2
from selfstab.data.sources import DataError
from selfstab.settings import Setting

__all__ = ["LARGEST", "TEST_SAMPLES", "DataError", "Dataset", "cifar10", "cifar10_cats_dogs", "load", "sst2"]

#: Test samples that :func:`load` takes by default below paper scale: those that the subset holds.
TEST_SAMPLES = {"cifar10": 500, "cats-dogs": 200, "sst2": 200}


def load(setting: Setting, split: str = "train", n: int | None = None, folder=None) -> Dataset:
    """Return the data of a setting, with labels in the form that its criterion takes.

    Test data are standardized, or encoded, by the statistics of the setting's own training data.  ``n`` defaults to the
    setting's own for training and, for testing, to everything at paper scale and :data:`TEST_SAMPLES` below it.

    Raises:
        ValueError: on a wrong split or n, with the value received.
        DataError: when a file is missing, damaged or out of reach.
    """
    if n is None and split == "test":
        n = LARGEST[setting.dataset]["test"] if setting.scale == "paper" else TEST_SAMPLES[setting.dataset]
    n, chosen = setting.n if n is None else n, dict(folder=folder, fit=setting.n)
    if setting.dataset == "sst2":
        data = sst2(n, split, pieces=setting.model == "transformer-released", **chosen)
    else:
        data = cifar10(n, split, dataset=setting.dataset, image_size=setting.image_size, **chosen)
    if setting.criterion == "cross-entropy" and setting.dataset != "cifar10":
        data = dataclasses.replace(data, targets=(data.targets > 0).astype(np.int32))
    return data
