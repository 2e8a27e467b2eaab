"""embed_teacher: the frozen base encoder's embeddings of every quadruplet that training sees, once."""

from __future__ import annotations

from tqdm import tqdm

from safeclip.core.artifacts import DATASET
from safeclip.core.records import read_dataset
from safeclip.core.stage import main, output
from safeclip.encoders.embed import embed_quadruplets
from safeclip.encoders.load import load_encoder
from safeclip.encoders.teacher import write_teacher
from safeclip.settings import Settings

SPLITS = ("train", "val")  # test is evaluate's alone


def embed_teacher(settings: Settings) -> None:
    """Write {train,val}.safetensors with the four columns' embeddings, rows in the dataset's order."""
    encoder = load_encoder(f"{settings.data.path}/base_encoder")
    tables = {split: read_dataset(DATASET, split) for split in SPLITS}
    total = 4 * sum(table.num_rows for table in tables.values())
    with output("embed_teacher") as out, tqdm(total=total, unit="item", mininterval=5) as bar:
        for split, table in tables.items():
            embeddings = embed_quadruplets(encoder, table, settings.embed_teacher.batch_size, bar.update)
            write_teacher(out / f"{split}.safetensors", embeddings, table["id"].to_pylist(), encoder.digest)


if __name__ == "__main__":
    main(embed_teacher)
