import numpy as np
import pyarrow as pa
import pytest

from storage import DROPPED, SchemaError
from storage.tables import SHARD_FILES
from tasks.caption import CAPTION
from tasks.data_format import data_format
from tasks.download.stage import DOWNLOAD
from tasks.embed.stage import embed_schema
from tasks.index.stage import INDEX
from tasks.mask.stage import MASK
from tasks.plan.stage import PLAN
from tasks.retrieve.gates import RETRIEVE
from tasks.stages import DATASET, MANIFEST, all_tables
from tasks.swap.stage import SWAP


def test_every_stage_declares_a_table_of_its_name():
    assert [stage.tables[0].name for stage in DATASET] == [stage.name for stage in DATASET]
    assert embed_schema(4).name == "embed"


def test_the_manifest_holds_every_column_that_says_something_about_a_packed_sample():
    left_out = {
        # of a packed sample these are always the same, or only about the work
        *("status", "error_kind", "error_class"),
        *("source_mask_png", "target_mask_png"),  # they lie in the tar
        *("position",),  # of the index's file alone
        # what it takes to gate again lies with the retrieve stage
        *(f"candidate_{kind}similarities" for kind in ("", "text_", "image_", "directional_", "layout_")),
    }
    renamed = {"width": "laion_width", "height": "laion_height", "similarity": "laion_similarity"}
    expected = {renamed.get(name, name) for name in PLAN.names}
    for schema in (DOWNLOAD, CAPTION, SWAP, RETRIEVE, MASK, INDEX):
        expected |= set(schema.names)
    assert expected - left_out <= set(MANIFEST.names)


def test_every_column_of_the_manifest_has_one_stage_of_origin():
    origins = {column.name: column.stage for column in MANIFEST.columns[1:]}
    assert all(origins.values())
    assert set(origins.values()) == {"plan", "download", "caption", "swap", "retrieve", "mask", "pack"}


def test_what_may_be_missing_for_a_failed_url_is_certain_for_a_packed_sample():
    nullable = {column.name for column in MANIFEST.columns if column.nullable}
    assert {"sha256", "width", "stored_sha256", "phash", "target_id", "similarity", "rank"} & nullable == set()
    assert {"alt_text", "punsafe", "directional_similarity"} <= nullable


def test_embeddings_are_half_floats_of_a_fixed_length():
    sizes = {"image_embeds": 3, "text_embeds": 3, "caption_embeds": 3, "layout_embeds": 256}
    table = embed_schema(3).table([{"sample_id": "a"} | {name: np.ones(n, np.float16) for name, n in sizes.items()}])
    assert table.column_names == ["sample_id", *sizes]
    for name, size in sizes.items():
        wanted = pa.list_(pa.field("item", pa.float16(), nullable=False), size)
        assert table.schema.field(name).type.equals(wanted)
    for dim in (0, -1, 100_000):
        with pytest.raises(SchemaError, match="an embedding has"):
            embed_schema(dim)
        with pytest.raises(SchemaError, match="an embedding has"):
            embed_schema(3, layout_dim=dim)


def test_the_description_lists_every_column_with_its_meaning():
    text = data_format()
    for schema in (*all_tables(), embed_schema(8), MANIFEST, DROPPED, SHARD_FILES):
        section = text.partition(f"## {schema.name}\n")[2].partition("\n## ")[0]
        assert schema.description in section
        for column in schema.columns:
            line = next(line for line in section.splitlines() if line.startswith(f"| `{column.name}` |"))
            assert column.description in line
            assert line.count("|") == 5
    assert "float16[dim]" in text
    assert "float16[512]" not in text
