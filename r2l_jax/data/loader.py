"""Loads batches with Grain, in a reproducible order, reading ahead in threads; each process loads its part."""

from collections.abc import Iterator
from typing import Any, Generic, TypedDict, TypeVar

import grain
import jax
import numpy as np

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.devices import memory

# The bytes of the batches that are loaded ahead, at most an eighth of the memory: at least 1 batch, and at most 64.
_AHEAD = 2**31

Leaf = TypeVar("Leaf")


class Batch(TypedDict, Generic[Leaf]):
    """A batch of samples, as NumPy arrays when loaded and as JAX arrays in compiled functions.

    `raw` has the raw images `(B, H, W)` or images `(B, H, W, 3)`, `target` the classes `(B,)`, masks `(B, H, W)` or
    boxes `(B, N, 6)`, and `index` the samples' indices in the data set. `weight` is 0 for samples that fill up the last
    batch, and 1 for others.
    """

    raw: Leaf
    target: Leaf
    index: Leaf
    weight: Leaf


class _Samples:
    """Grain's random-access source: the samples at `indices`, in this order."""

    def __init__(self, dataset: RawDataset, indices: np.ndarray, weights: np.ndarray, keep_decoded: bool = True):
        self._indices, self._weights = indices, weights
        self._sample = dataset.__getitem__ if keep_decoded else dataset.read
        # Read here, before Grain's threads start, because the first read allocates memory for all samples.
        self._first = {0: self._sample(int(indices[0]))}

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Batch[Any]:
        number = int(self._indices[index])
        raw, target = self._first.pop(index, None) or self._sample(number)
        return {"raw": raw, "target": target, "index": np.int32(number), "weight": self._weights[index]}

    def options(self, batch_size: int) -> grain.ReadOptions:
        """Returns how batches are loaded ahead; call it before any sample is taken."""
        (sample,) = self._first.values()
        of_batch = batch_size * sum(leaf.nbytes for leaf in (*sample, np.int32(0), self._weights[0]))
        ahead = min(max(min(_AHEAD, memory.of_process() // 8) // of_batch, 1), 64)
        return grain.ReadOptions(num_threads=min(4, ahead), prefetch_buffer_size=ahead)


def batch_of(dataset: RawDataset, indices: np.ndarray) -> Batch[np.ndarray]:
    """Returns some samples as one batch in which each has weight 1."""
    raws, targets = dataset.samples(indices)
    index, weight = np.asarray(indices, np.int32), np.ones(len(indices), np.float32)
    return {"raw": raws, "target": targets, "index": index, "weight": weight}


def shapes(dataset: RawDataset, batch_size: int, sharding: jax.sharding.Sharding) -> Batch[jax.ShapeDtypeStruct]:
    """Returns the shapes and types of a global batch, to compile functions before the first batch is loaded."""

    def stacked(leaf: np.ndarray | np.number) -> jax.ShapeDtypeStruct:
        of_jax = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct((batch_size, *np.shape(leaf)), of_jax, sharding=sharding)

    return jax.tree.map(stacked, _Samples(dataset, np.arange(1), np.ones(1, np.float32))[0])


def train_batches(
    dataset: RawDataset, indices: np.ndarray, batch_size: int, seed: int, first_step: int = 0
) -> Iterator[Batch[np.ndarray]]:
    """Yields batches endlessly, in a new order in each epoch, starting at any step.

    An epoch has `len(indices) // batch_size` batches; the samples that are left over differ from epoch to epoch. Each
    process gets its part of the `batch_size` samples, at most `len(indices)`. The first `first_step` batches are
    skipped.
    """
    samples = _Samples(dataset, indices, np.ones(len(indices), np.float32))
    of_process = batch_size // jax.process_count()
    shuffled = grain.MapDataset.source(samples).shuffle(seed=seed)[jax.process_index() :: jax.process_count()]
    epoch = shuffled.batch(of_process, drop_remainder=True)[: len(indices) // batch_size]
    return iter(epoch.repeat()[first_step:].to_iter_dataset(samples.options(of_process)))


def eval_batches(
    dataset: RawDataset, indices: np.ndarray, batch_size: int, *, keep_decoded: bool = True
) -> Iterator[Batch[np.ndarray]]:
    """Yields every sample once, in order; the last batch is filled up with samples of weight 0 to the same shape.

    Each process gets its part of the `batch_size` samples. `keep_decoded` keeps decoded samples in memory, for repeated
    reads, if the whole data set fits.
    """
    padded = -len(indices) % batch_size + len(indices)
    weights = (np.arange(padded) < len(indices)).astype(np.float32)
    samples = _Samples(dataset, np.resize(indices, padded), weights, keep_decoded)
    source = grain.MapDataset.source(samples)[jax.process_index() :: jax.process_count()]
    of_process = batch_size // jax.process_count()
    return iter(source.batch(of_process).to_iter_dataset(samples.options(of_process)))
