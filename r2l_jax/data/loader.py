"""Batches by Grain: deterministic, read ahead in threads, each process its own part."""

import dataclasses
from collections.abc import Iterator
from typing import TypedDict

import grain
import jax
import numpy as np

from r2l_jax.data.raw_dataset import RawDataset

_READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=64)


class Batch(TypedDict):
    """Raw mosaics `(B, H, W)`, targets `(B,)` or `(B, H, W)`, and weights `(B,)`, 0 for samples that only fill up."""

    raw: np.ndarray
    target: np.ndarray
    weight: np.ndarray


class Numbered(RawDataset):
    """A data set whose targets come with the samples' indices, int32, and which keeps nothing that it has read."""

    decoded = None

    @classmethod
    def of(cls, dataset: RawDataset) -> "Numbered":
        """The same samples, numbered."""
        return cls(**{field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)})

    def __getitem__(self, index):
        raw, target = self.read(index)
        return raw, (target, np.int32(index))


class _Samples:
    """Grain's random-access source: samples of a data set, in the order of `indices`."""

    def __init__(self, dataset: RawDataset, indices: np.ndarray, weights: np.ndarray):
        self.dataset, self.indices, self.weights = dataset, indices, weights
        dataset.decoded  # noqa: B018 -- decodes once here, not in each of Grain's threads

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, position: int) -> Batch:
        raw, target = self.dataset[int(self.indices[position])]
        return {"raw": raw, "target": target, "weight": self.weights[position]}


def train_batches(
    dataset: RawDataset, indices: np.ndarray, batch_size: int, seed: int, first_step: int = 0
) -> Iterator[Batch]:
    """Endless batches, each epoch in another order, as if resumed at any step.

    An epoch has `len(indices) // batch_size` batches; the samples left over are others in each epoch.

    Args:
        dataset: where the samples are.
        indices: which of them to train on.
        batch_size: samples in a batch over all processes, at most `len(indices)`; each process gets its part.
        seed: of the order.
        first_step: the batch to start at, counted from the first epoch's start.
    """
    source = grain.MapDataset.source(_Samples(dataset, indices, np.ones(len(indices), np.float32)))
    shuffled = source.shuffle(seed=seed)[jax.process_index() :: jax.process_count()]
    epoch = shuffled.batch(batch_size // jax.process_count(), drop_remainder=True)[: len(indices) // batch_size]
    return iter(epoch.repeat()[first_step:].to_iter_dataset(_READ))


def eval_batches(dataset: RawDataset, indices: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """Every sample once, in order; the last batch is filled up with samples of weight 0, so that all have one shape."""
    padded = -len(indices) % batch_size + len(indices)
    weights = (np.arange(padded) < len(indices)).astype(np.float32)
    source = grain.MapDataset.source(_Samples(dataset, np.resize(indices, padded), weights))
    part = source[jax.process_index() :: jax.process_count()]
    return iter(part.batch(batch_size // jax.process_count()).to_iter_dataset(_READ))
