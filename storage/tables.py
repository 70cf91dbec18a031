"""The tables that the stages hand to each other: every column that exists, declared once.

Stages 0 to 7 write one table a shard. The manifest is the union of all of them, one row a packed sample, with the
columns renamed where two stages use one word for two things.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from storage.errors import SchemaError
from storage.schema import Column, TableSchema

SAMPLE_PARTS = ("source", "target", "source_mask", "target_mask", "json")
"""Members of one packed sample: ``<sample_id>.<part>.<extension>``, and ``<sample_id>.json``."""

UNIT_RANGE = "[0, 1]"
COSINE = "cosine in [-1, 1]"


def _column(name: str, kind: str, description: str, unit: str = "", **options: bool | tuple[str, ...]) -> Column:
    return Column(name=name, type=kind, description=description, unit=unit, **options)  # pyright: ignore[reportArgumentType]


_ID = _column("sample_id", "string", "Id of the sample: blake2b of its URL.", "20 hex characters")

PLAN = TableSchema(
    name="plan",
    description="One row a URL that is to be fetched, as the metadata describes it.",
    columns=(
        _ID,
        _column("url", "string", "Address of the source image."),
        _column("alt_text", "string", "Text that the page gives for the image.", nullable=True),
        _column("width", "int32", "Width that the metadata claims.", "pixels", nullable=True),
        _column("height", "int32", "Height that the metadata claims.", "pixels", nullable=True),
        _column(
            "similarity", "float32", "CLIP similarity of image and alt text in the metadata.", COSINE, nullable=True
        ),
        _column("punsafe", "float32", "Probability that the image is unsafe.", UNIT_RANGE, nullable=True),
        _column("pwatermark", "float32", "Probability that the image has a watermark.", UNIT_RANGE, nullable=True),
        _column("aesthetic_score", "float32", "Predicted aesthetic score.", "[0, 10]", nullable=True),
        _column("language", "string", "Language of the alt text.", "ISO 639-1", nullable=True),
        _column("expected_hash", "string", "Hash of the original bytes that the metadata promises.", nullable=True),
        _column("source_file", "string", "Metadata file from which the row comes."),
        _column("source_row", "int64", "Row in that file.", "from 0"),
    ),
)

DOWNLOAD = TableSchema(
    name="download",
    description="One row a URL that was tried, whether it could be fetched or not.",
    columns=(
        _ID,
        _column("url", "string", "Address of the source image."),
        _column("alt_text", "string", "Text that the page gives for the image.", nullable=True),
        _column("status", "string", "Whether the image is there.", allowed=("ok", "failed")),
        _column(
            "error_kind", "string", "Whether another try could help.", nullable=True, allowed=("permanent", "transient")
        ),
        _column("error_class", "string", "Class of a permanent failure, one word.", nullable=True),
        _column("sha256", "string", "Hash of the original bytes.", "64 hex characters", nullable=True),
        _column("original_format", "string", "Format of the original image.", "lower case", nullable=True),
        _column("original_width", "int32", "Width of the original image.", "pixels", nullable=True),
        _column("original_height", "int32", "Height of the original image.", "pixels", nullable=True),
        _column("width", "int32", "Width of the stored image.", "pixels", nullable=True),
        _column("height", "int32", "Height of the stored image.", "pixels", nullable=True),
        _column("stored_sha256", "string", "Hash of the stored image's bytes.", "64 hex characters", nullable=True),
        _column("image_shard", "string", "Download shard whose tar holds the stored image.", nullable=True),
        _column("image_offset", "int64", "Where the stored image begins in that tar.", "bytes", nullable=True),
        _column("image_size", "int64", "Length of the stored image.", "bytes", nullable=True),
        _column("phash", "int64", "Perceptual hash: near-duplicates differ in few bits.", "64 bits", nullable=True),
    ),
)

DOWNLOAD_LOG = TableSchema(
    name="download_log",
    description="One row a URL that was tried, and how that went; `log.parquet` of a download shard.",
    columns=(
        _ID,
        _column("url", "string", "Address of the source image."),
        _column("status", "string", "Whether the image is there.", allowed=("ok", "failed")),
        _column(
            "error_kind", "string", "Whether another try could help.", nullable=True, allowed=("permanent", "transient")
        ),
        _column("error_class", "string", "Class of the failure, one word.", nullable=True),
        _column("error_message", "string", "What the failure said.", nullable=True),
        _column("http_status", "int32", "Last status of the server.", nullable=True),
        _column("attempts", "int32", "How often the URL was tried, in all runs.", "count"),
        _column("fetched_bytes", "int64", "Length of the last body that came whole.", "bytes"),
    ),
)

CAPTION = TableSchema(
    name="caption",
    description="One row an image with its caption.",
    columns=(
        _ID,
        _column("caption", "string", "One plain sentence about the source image."),
        _column("caption_source", "string", "Who wrote the caption.", allowed=("model", "alt_text")),
    ),
)

WORDS = TableSchema(
    name="words",
    description="One row a word that a swap could bring in, with its use in the corpus's captions.",
    columns=(
        _column("term", "string", "Lemma and part of speech: `fire_truck.n`, `red.a`."),
        _column("count", "int64", "Captions in which the word stands.", "count"),
    ),
    sort_by=("term",),
)

SWAP = TableSchema(
    name="swap",
    description="One row a caption of which one word was exchanged.",
    columns=(
        _ID,
        _column("caption", "string", "One plain sentence about the source image."),
        _column("edit_prompt", "string", "The caption with one word exchanged: what the edited image should show."),
        _column("swapped_from", "string", "Word of the caption that was taken out."),
        _column("swapped_to", "string", "Word that took its place."),
        _column(
            "relation",
            "string",
            "How the two words are related in WordNet.",
            allowed=("antonym", "cohyponym", "sibling_satellite"),
        ),
        _column("pos", "string", "Part of speech of the exchanged word.", allowed=("noun", "adjective")),
        _column("source_synset", "string", "WordNet synset of the word that was taken out."),
        _column("target_synset", "string", "WordNet synset of the word that took its place."),
        _column(
            "level", "int32", "Hypernyms up to the common one: 1 for siblings, 0 where that means nothing.", "count"
        ),
        _column("source_diff", "string", "What the source mask is to show (Section 3.4)."),
        _column("target_diff", "string", "What the target mask is to show (Section 3.4)."),
    ),
)

INDEX = TableSchema(
    name="index",
    description="One row a vector of the index: which sample stands at which position.",
    columns=(_ID, _column("position", "int64", "Row of the vector in the index.", "from 0")),
)

_CANDIDATE_SIMILARITIES = tuple(
    _column(name, "list<float32>", f"{meaning}, one a candidate; empty when it was not measured.", COSINE)
    for name, meaning in (
        ("candidate_similarities", "Query against the candidate's image"),
        ("candidate_text_similarities", "Candidate's image against the edit prompt"),
        ("candidate_image_similarities", "Source image against the candidate's image"),
        ("candidate_directional_similarities", "Change of the images against change of the texts"),
        ("candidate_layout_similarities", "Agreement of the two images' layouts"),
    )
)

RETRIEVE = TableSchema(
    name="retrieve",
    description="One row a query with its ranked candidates; `target_id` is null when every candidate was rejected.",
    columns=(
        _ID,
        _column("target_id", "string", "Sample whose image is the pseudo-target.", "20 hex characters", nullable=True),
        _column("similarity", "float32", "Query embedding against the target's image.", COSINE, nullable=True),
        _column("rank", "int32", "Place of the target among the candidates.", "from 0", nullable=True),
        _column("source_text_similarity", "float32", "Source image against the caption.", COSINE, nullable=True),
        _column("target_text_similarity", "float32", "Target image against the edit prompt.", COSINE, nullable=True),
        _column("image_similarity", "float32", "Source image against the target image.", COSINE, nullable=True),
        _column(
            "directional_similarity",
            "float32",
            "Change of the images against change of the texts.",
            COSINE,
            nullable=True,
        ),
        _column("layout_similarity", "float32", "Agreement of the two images' layouts.", "[-1, 1]", nullable=True),
        _column("candidate_ids", "list<string>", "Samples found, best first."),
        _column("candidate_scores", "list<float32>", "Scores of the candidates, as ranked.", COSINE),
        _column("candidate_reasons", "list<string>", "Why each candidate was rejected; empty for one that passed."),
        *_CANDIDATE_SIMILARITIES,
    ),
)


def _mask_columns(side: str) -> tuple[Column, ...]:
    return (
        _column(f"{side}_mask_mean", "float32", f"Mean probability of the {side} mask.", UNIT_RANGE),
        _column(f"{side}_mask_max", "float32", f"Highest probability of the {side} mask.", UNIT_RANGE),
        _column(f"{side}_mask_area", "float32", f"Share of the {side} image inside the mask.", UNIT_RANGE),
        _column(
            f"{side}_mask_border", "float32", f"Share of the {side} image's border pixels inside the mask.", UNIT_RANGE
        ),
    )


_MASK_PAIR = (
    _column("mask_iou", "float32", "Intersection over union of the two masks.", UNIT_RANGE),
    _column("outside_similarity", "float32", "Likeness of the two images outside both masks.", "[-1, 1]"),
)

MASK = TableSchema(
    name="mask",
    description="One row a pair with its two masks and their scores.",
    columns=(
        _ID,
        _column("target_id", "string", "Sample whose image is the pseudo-target.", "20 hex characters"),
        _column("source_mask_png", "binary", "Mask on the source image: where to edit.", "PNG, 8 bit grey, 255 = edit"),
        *_mask_columns("source"),
        _column("target_mask_png", "binary", "Mask on the target image.", "PNG, 8 bit grey, 255 = edit"),
        *_mask_columns("target"),
        *_MASK_PAIR,
    ),
)


LAYOUT_DIM = 256
"""Numbers in the descriptor of a layout."""


def embed_schema(dim: int, *, layout_dim: int = LAYOUT_DIM) -> TableSchema:
    """Return the table of the embed stage for embeddings of ``dim`` numbers and layouts of ``layout_dim``.

    Raises:
        SchemaError: one of them is not between 1 and 99999.
    """
    for size in (dim, layout_dim):
        if not 1 <= size <= 99_999:
            raise SchemaError(f"an embedding has between 1 and 99999 numbers, not {size}")
    vector, of_pairs = f"float16[{dim}]", "unit norm, or zeros"
    return TableSchema(
        name="embed",
        description="One row an image; each can be a target, and those with an edit prompt can be sources too.",
        columns=(
            _ID,
            _column("image_embeds", vector, "Embedding of the image.", "unit norm"),
            _column("text_embeds", vector, "Embedding of the edit prompt; zeros where there is none.", of_pairs),
            _column("caption_embeds", vector, "Embedding of the caption; zeros without an edit prompt.", of_pairs),
            _column(
                "layout_embeds", f"float16[{layout_dim}]", "Descriptor of where things are in the image.", of_pairs
            ),
        ),
    )


_PACK = (
    _column("split", "string", "Part of the dataset.", allowed=("train", "val", "test")),
    _column("group_id", "string", "Group of related samples; no group crosses a split."),
    _column("tar", "string", "Tar that holds the sample, relative to the root of the store."),
    _column("tar_offset", "int64", "Where the sample's first header begins in the tar.", "bytes"),
    _column("tar_size", "int64", "Length of the sample's members in the tar, headers included.", "bytes"),
    *(
        _column(f"{part}_member_sha256", "string", f"Hash of the sample's {part} member.", "64 hex characters")
        for part in SAMPLE_PARTS
    ),
)

_TARGET = (
    _column("target_url", "string", "Address of the target image."),
    _column("target_alt_text", "string", "Text that the page gives for the target image.", nullable=True),
    _column("target_caption", "string", "One plain sentence about the target image."),
    _column("target_sha256", "string", "Hash of the target's original bytes.", "64 hex characters"),
    _column("target_stored_sha256", "string", "Hash of the target's stored image.", "64 hex characters"),
)


def _taken(
    schema: TableSchema, names: Iterable[str], *, rename: Mapping[str, str] | None = None, certain: Iterable[str] = ()
) -> Iterator[Column]:
    # Columns of a packed sample: what may be null for a failed row is certain for one that was packed.
    by_name = {column.name: column for column in schema.columns}
    for name in names:
        column = replace(by_name[name], name=(rename or {}).get(name, name))
        yield replace(column, nullable=False) if name in certain else column


_PLAN_RENAMED = {"width": "laion_width", "height": "laion_height", "similarity": "laion_similarity"}
_DOWNLOADED = (
    *("sha256", "original_format", "original_width", "original_height", "width", "height", "stored_sha256"),
    *("image_shard", "image_offset", "image_size", "phash"),
)
_FOUND = ("target_id", "similarity", "rank")
# What it takes to gate again stays with the stage: five more numbers a candidate would double the manifest.
_REGATING = frozenset(column.name for column in _CANDIDATE_SIMILARITIES)
_RETRIEVED = tuple(name for name in RETRIEVE.names[1:] if name not in _REGATING)

_MANIFEST_COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "plan": tuple(_taken(PLAN, PLAN.names[1:], rename=_PLAN_RENAMED)),
    "download": tuple(_taken(DOWNLOAD, _DOWNLOADED, certain=_DOWNLOADED)),
    "caption": tuple(_taken(CAPTION, CAPTION.names[1:])),
    "swap": tuple(_taken(SWAP, SWAP.names[2:])),
    "retrieve": (*_taken(RETRIEVE, _RETRIEVED, certain=_FOUND), *_TARGET),
    "mask": (*_mask_columns("source"), *_mask_columns("target"), *_MASK_PAIR),
    "pack": _PACK,
}

MANIFEST = TableSchema(
    name="manifest",
    description="One row a packed sample: all that the stages know about it and where it lies.",
    columns=(_ID, *(column for columns in _MANIFEST_COLUMNS.values() for column in columns)),
)

MANIFEST_ORIGIN: Mapping[str, str] = {
    column.name: stage for stage, columns in _MANIFEST_COLUMNS.items() for column in columns
}
"""Column of the manifest -> stage that decides it."""

DROPPED = TableSchema(
    name="dropped",
    description="One row a sample that a stage dropped, with its reason.",
    columns=(
        _ID,
        _column("reason", "string", "Why, as one word that is counted.", "snake_case"),
        _column("detail", "string", "Why, in words; may be empty."),
    ),
    sort_by=("sample_id", "reason", "detail"),
    unique=False,
)

SHARD_FILES = TableSchema(
    name="shard_files",
    description="One row a file of a stage's shard that a dataset version was made from.",
    columns=(
        _column("stage", "string", "Name of the stage."),
        _column("shard", "string", "Name of the shard."),
        _column("fingerprint", "string", "Folder of the stage that holds the shard.", "16 hex characters"),
        _column("name", "string", "Which file of the shard: parquet, tar, dropped.parquet or another suffix."),
        _column("size", "int64", "Length of the file.", "bytes"),
        _column("sha256", "string", "Hash of the file.", "64 hex characters"),
    ),
    sort_by=("stage", "shard", "fingerprint", "name"),
)

SCHEMAS: Mapping[str, TableSchema] = {
    schema.name: schema for schema in (PLAN, DOWNLOAD, CAPTION, WORDS, SWAP, INDEX, RETRIEVE, MASK)
}
"""Stage -> its table; the embed stage's depends on its model, see ``embed_schema``; pack writes MANIFEST rows."""


def describe() -> str:
    """Return all tables as Markdown: the text of the data format's documentation."""
    embed = embed_schema(512)
    tables = (
        PLAN,
        DOWNLOAD,
        DOWNLOAD_LOG,
        CAPTION,
        WORDS,
        SWAP,
        embed,
        INDEX,
        RETRIEVE,
        MASK,
        MANIFEST,
        DROPPED,
        SHARD_FILES,
    )
    return "\n".join(_described(table) for table in tables).replace("float16[512]", "float16[dim]")


def _described(schema: TableSchema) -> str:
    lines = [f"## {schema.name}", "", schema.description, "", "| column | type | unit | meaning |", "|---|---|---|---|"]
    for column in schema.columns:
        kind = f"{column.type}, may be null" if column.nullable else column.type
        values = f" One of {', '.join(f'`{value}`' for value in column.allowed)}." if column.allowed else ""
        lines.append(f"| `{column.name}` | {kind} | {column.unit} | {column.description}{values} |")
    return "\n".join((*lines, ""))
