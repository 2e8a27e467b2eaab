"""Run one worker: check inputs, then run micro-batches on one model thread; the event loop stays free.

Images are decoded on a second thread. Both queues count towards one bound.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safeclip.core.errors import DataError
from safeclip.metrics.topk import topk
from safeclip.serving.batcher import Backlog, MicroBatcher
from safeclip.serving.embedder import Embedder
from safeclip.serving.index import Index, open_index
from safeclip.serving.middleware import BACKLOG_SECONDS
from safeclip.serving.observed import BACKLOG, BATCHES, UNSAFE
from safeclip.serving.schemas import MAX_HITS, Hit, ImageItem, Score, TextItem

# Between batches the model thread waits for Python's lock while answers are written: 5 ms by default.
SWITCH_S = 0.0005
# Texts with more characters in all are checked on a thread: the worst ones take 10 ms each.
INLINE_CHARS = 2000


class Engine:
    """Answers for one packaged model and, if mounted, one gallery index."""

    def __init__(
        self, model: Path, gallery: Path | None, threads: int = 1, precision: str = "float32"
    ) -> None:
        self.embedder = Embedder(model, threads, precision)
        self.index: Index | None = None
        if gallery:
            self.index = open_index(gallery, self.embedder.encoder.digest, self.embedder.base.digest)
        sys.setswitchinterval(SWITCH_S)
        self._model = ThreadPoolExecutor(1, "model")
        self._decoder = ThreadPoolExecutor(1, "decoder")
        self.backlog = Backlog(BACKLOG_SECONDS)
        self._decode: MicroBatcher[tuple[str, str]] = MicroBatcher(
            self._prepare, self._decoder, self.backlog, max_batch=4
        )
        self._texts = self._batchers("text", self.embedder.texts)
        self._images = self._batchers("image", self.embedder.images)
        self._nearest = self._batchers("search", self._search)

    def _batchers(self, name: str, run: Callable[..., Any]) -> list[MicroBatcher[Any]]:
        """One for the served towers, one for the base towers."""
        sizes = BATCHES.labels(name)

        def observe(size: int) -> None:
            sizes.observe(size)
            BACKLOG.set(self.backlog.seconds)

        return [
            MicroBatcher(partial(run, base=base), self._model, self.backlog, observe=observe)
            for base in (False, True)
        ]

    def close(self) -> None:
        """Finish what runs and end the threads."""
        self._model.shutdown()
        self._decoder.shutdown()

    async def encode_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Check and embed texts: N vectors [D]."""
        await self._check_texts(texts, [f"texts[{index}]" for index in range(len(texts))])
        return await self._texts[0](texts)

    async def encode_images(self, images: Sequence[str]) -> list[np.ndarray]:
        """Check, decode and embed images (base64): N vectors [D]."""
        pixels = await self._decode([(image, f"images[{index}]") for index, image in enumerate(images)])
        return await self._images[0](pixels)

    async def encode_items(
        self, items: Sequence[TextItem | ImageItem], name: str, *, with_base: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Served embeddings [N, D] of mixed items, and the base towers' if asked."""
        texts, images = rows_of(items)
        names = [f"{name}[{row}]" for row in range(len(items))]
        words = [items[row].text for row in texts]  # type: ignore[union-attr]
        await self._check_texts(words, [names[row] for row in texts])
        pixels = await self._decode([(items[row].image, names[row]) for row in images])  # type: ignore[union-attr]
        towers = []
        for base in (False, True) if with_base else (False,):
            embedded = await asyncio.gather(self._texts[base](words), self._images[base](pixels))
            vectors = np.zeros((len(items), self.embedder.encoder.embed_dim), np.float32)
            for rows, part in zip((texts, images), embedded, strict=True):
                vectors[rows] = part if rows else np.zeros((0, vectors.shape[1]))
            towers.append(vectors)
        return towers[0], towers[1] if with_base else None

    async def score(
        self, items: Sequence[TextItem | ImageItem], name: str
    ) -> tuple[list[Score], np.ndarray, np.ndarray]:
        """Scores with the embeddings they stand on, served and base."""
        served, base = await self.encode_items(items, name, with_base=True)
        assert base is not None
        scores: dict[int, Score] = {}
        for modality, rows in zip(("text", "image"), rows_of(items), strict=True):
            of_modality = self.embedder.scorer.score(modality, base[rows], served[rows])
            scores.update(zip(rows, of_modality, strict=True))
            UNSAFE.labels(modality).inc(sum(score.unsafe for score in of_modality))
        return [scores[row] for row in range(len(items))], served, base

    async def nearest(self, query: np.ndarray, k: int, *, base: bool) -> list[Hit]:
        """The `k` rows of the gallery nearest to `query` [D]; `DataError` if none is mounted."""
        if self.index is None:
            raise DataError("no gallery is mounted here; start the service with SAFECLIP_GALLERY=INDEX")
        scores, rows = (await self._nearest[base]([query]))[0]
        items = [self.index.item(int(row)) for row in rows[:k]]
        return [
            Hit(row=int(row), id=item.id, score=float(score), unsafe=item.unsafe)
            for row, item, score in zip(rows, items, scores, strict=False)
        ]

    def _search(self, queries: list[np.ndarray], base: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        assert self.index is not None
        gallery = self.index.base if base else self.index.served
        scores, rows = topk(torch.from_numpy(np.stack(queries)), gallery, MAX_HITS)
        return list(zip(scores.numpy(), rows.numpy(), strict=True))

    async def _check_texts(self, texts: Sequence[str], names: Sequence[str]) -> None:
        def check() -> None:
            for text, name in zip(texts, names, strict=True):
                self.embedder.check_text(text, name)

        if sum(map(len, texts)) <= INLINE_CHARS:
            return check()
        return await asyncio.get_running_loop().run_in_executor(self._decoder, check)

    def _prepare(self, images: list[tuple[str, str]]) -> list[Any]:
        def prepared(image: str, name: str) -> Any:
            try:
                return self.embedder.prepare_image(image, name)
            except DataError as error:
                return error

        return [prepared(*image) for image in images]


def rows_of(items: Sequence[TextItem | ImageItem]) -> tuple[list[int], list[int]]:
    """The places of the texts and of the images."""
    texts = [row for row, item in enumerate(items) if isinstance(item, TextItem)]
    return texts, [row for row, item in enumerate(items) if isinstance(item, ImageItem)]
