"""The card of a dataset version: what is in it, how it came about, what was lost on the way, and how to load it.

Everything but the section on licences is read from the version itself, so that the same version has the same card.
"""

import html
import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from iedit_model.configuration import configuration
from storage import StageRecord, TableSchema, VersionInfo, VersionStore
from storage.tables import compute

if TYPE_CHECKING:
    import pyarrow as pa


_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~^$-])")
_LINKS = re.compile(r"(?i)(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)")
"""Where a viewer that makes links of plain text must be kept from it."""

LICENCE: Final = """\
The images belong to whoever published them. This dataset gives no licence for them: the columns `url` and
`target_url` say where each comes from, and it is for the user to find out under which terms it may be used and passed
on. Captions, edit prompts, masks and scores were made by the models and word lists named under provenance, under their
licences."""

HEAD: Final = """\
# Editing pairs, version `{version}`

{num_samples:,} pairs for localised text-guided image editing ({splits}), mined with the weak supervision of iEdit: a
source image with its caption, an edit prompt that differs in one word, a target image that was found for the
prompt, and a mask on each of the two that says where the difference is. Targets are *pseudo*-targets: other images of
the corpus, not edited sources.{parent}"""

FUNNEL: Final = """\
## Funnel

Every sample that came into a stage either went out or was dropped for a reason.

| stage | in | out | kept | dropped, by reason |
|---|---:|---:|---:|---|
{rows}"""

SPLITS: Final = """\
## Splits

| split | samples | share | groups | tars |
|---|---:|---:|---:|---:|
{rows}

No image, near-duplicate, caption, edit prompt or template of an edit is in more than one split; pairs that made this
impossible were dropped (`split_conflict` above)."""

PAIRS: Final = """\
## Pairs

| relation | part of speech | pairs |
|---|---|---:|
{kinds}

| score | measured | 5 % | median | 95 % | meaning |
|---|---:|---:|---:|---:|---|
{scores}"""

EXAMPLES: Final = """\
## Examples

| sample | split | caption | edit prompt | exchanged | source | target |
|---|---|---|---|---|---|---|
{rows}

`iedit gallery {version}` shows the images."""

LOADING: Final = """\
## How to load it

Any reader of WebDataset tars will do; a sample is `source`, `target`, `source_mask`, `target_mask` and `json`. Set
`WDS_SECURE=1` when reading tars of others.

```python
import pyarrow.parquet as pq
import webdataset as wds

root = "."  # where the store is
manifest = pq.read_table(f"{{root}}/versions/{version}/manifest.parquet", columns=["sample_id", "split", "tar"])
rows = [row for row in manifest.to_pylist() if row["split"] == "train"]
tars = sorted({{f"{{root}}/{{row['tar']}}" for row in rows}})
keys = {{row["sample_id"] for row in rows}}
dataset = (
    wds.WebDataset(tars, shardshuffle=False, empty_check=False)
    .select(lambda sample: sample["__key__"] in keys)  # a part of a version shares its tars
    .decode("pil")
    .rename(source="source.png;source.jpg;source.webp", target="target.png;target.jpg;target.webp")
    .to_tuple("source", "target", "source_mask.png", "target_mask.png", "json")
)
for source, target, source_mask, target_mask, record in dataset:
    print(source.size, record["caption"], "->", record["edit_prompt"])
```

Masks are 8-bit grey: 255 where the image is to be edited. `decode("pil")` gives them as RGB, all channels equal."""

PROVENANCE: Final = """\
## Provenance

Input manifest: `{input_digest}`. The version's name follows from all that stands here, and the same inputs give the
same version, byte for byte.

| stage | code | shards | model | contents | configuration |
|---|---:|---:|---|---|---|
{rows}"""

LIMITS: Final = """\
## Limits

- A target is another image that fits the edit prompt, not the source with an edit: pose, place, light and background
  may differ. `outside_similarity` says how alike the two are outside their masks.
- Captions, masks and scores are the work of models and err; nobody has looked at all pairs. The scores are columns, so
  that a stricter part of the dataset is one filter away.
- Which words are exchanged follows WordNet, whose senses are English and of their time.
- Images from the web carry its bias. `punsafe`, `pwatermark` and the like hold what the metadata says, where it does;
  nothing else was done about unsafe images, faces or personal data.
- Near-duplicates are found by their bytes, by a perceptual hash and by what the retrieval met; a crop or a mirror image
  of an image may escape all three and stand in another split."""

COLUMNS: Final = """\
## Columns of the manifest

| column | stage | type | unit | meaning |
|---|---|---|---|---|
{rows}"""


def in_words(text: str | None, *, longest: int = 160) -> str:
    """Return untrusted text as Markdown that shows it as it is: one line, fit for a cell of a table, no link.

    Args:
        text: anything; None counts as empty.
        longest: characters of it that are shown.
    """
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text or "").split())
    if len(plain) > longest:
        plain = f"{plain[: longest - 1]}\u2026"
    escaped = _SPECIAL.sub(r"\\\1", html.escape(plain, quote=False))
    return _LINKS.sub("&#8203;", escaped)


CARD_NAME: Final = "README.md"

_SCORES: Final = (
    *("similarity", "source_text_similarity", "target_text_similarity", "image_similarity", "directional_similarity"),
    *("layout_similarity", "source_mask_area", "target_mask_area", "mask_iou", "outside_similarity"),
)
_READ: Final = ("sample_id", "split", "group_id", "tar", "relation", "pos", *_SCORES)
_SHOWN: Final = ("sample_id", "split", "caption", "edit_prompt", "swapped_from", "swapped_to", "url", "target_url")


@configuration
class CardConfig:
    """What stands on the card beside what the version says."""

    num_examples: Annotated[int, Field(ge=0, le=1000)] = 8
    """Pairs that are shown in words."""
    licence: str = LICENCE
    """The section on licences, Markdown; it should say where the images come from."""


def write_card(versions: VersionStore, version: str, config: CardConfig | None = None) -> str:
    """Write the card beside the version's manifest and return its path under the root of the store.

    Raises:
        UnknownVersionError: there is no such version.
        CorruptFileError: it is damaged.
    """
    info = versions.load(version)
    path = f"versions/{info.id}/{CARD_NAME}"
    versions.files.write_bytes(path, dataset_card(versions, info.id, config).encode())
    return path


def dataset_card(versions: VersionStore, version: str, config: CardConfig | None = None) -> str:
    """Return the card of a version as Markdown.

    Captions, alt texts and URLs are untrusted: they stand on the card as text, whatever they contain.

    Raises:
        UnknownVersionError: there is no such version.
        CorruptFileError: it is damaged.
    """
    config = config or CardConfig()
    info = versions.load(version)
    manifest = versions.manifest(info, columns=_READ)
    # Ids are hashes of URLs, so that the first ones are as good as a random sample.
    first = manifest["sample_id"][: config.num_examples].to_pylist()
    shown = versions.manifest(info, columns=_SHOWN, where=f"sample_id <= {first[-1]!r}") if first else None
    sections = (
        _head(info),
        FUNNEL.format(rows=_lines(_funnel(info.stages))),
        SPLITS.format(rows=_lines(_splits(info, manifest))),
        PAIRS.format(kinds=_lines(_kinds(manifest)), scores=_lines(_scores(manifest))),
        EXAMPLES.format(version=info.id, rows=_lines(_examples(shown))) if shown else "",
        LOADING.format(version=info.id),
        PROVENANCE.format(input_digest=info.input_digest, rows=_lines(_provenance(info.stages))),
        LIMITS,
        f"## Licences\n\n{config.licence}",
        COLUMNS.format(rows=_lines(_columns())),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(info: VersionInfo) -> str:
    splits = ", ".join(f"{count:,} {split}" for split, count in info.splits.items())
    parent = (
        f"\n\nIt is made from version `{info.parent}`: {in_words(info.where, longest=2000)}." if info.parent else ""
    )
    return HEAD.format(version=info.id, num_samples=info.num_samples, splits=splits, parent=parent)


def _funnel(stages: Sequence[StageRecord]) -> Iterator[tuple[str, ...]]:
    for record in stages:
        reasons = sorted(record.dropped.items(), key=lambda item: (-item[1], item[0]))
        dropped = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in reasons) or "none"
        kept = f"{record.num_out / record.num_in:.1%}" if record.num_in else ""
        yield record.stage, f"{record.num_in:,}", f"{record.num_out:,}", kept, dropped


def _splits(info: VersionInfo, manifest: "pa.Table") -> Iterator[tuple[str, ...]]:
    for split, count in info.splits.items():
        rows = manifest.filter(compute().field("split") == split)
        groups, tars = (len(rows[name].unique()) for name in ("group_id", "tar"))
        yield split, f"{count:,}", f"{count / info.num_samples:.1%}", f"{groups:,}", f"{tars:,}"


def _kinds(manifest: "pa.Table") -> Iterator[tuple[str, ...]]:
    kinds = manifest.group_by(["relation", "pos"]).aggregate([("sample_id", "count")]).to_pylist()
    for row in sorted(kinds, key=lambda row: (-row["sample_id_count"], row["relation"], row["pos"])):
        yield row["relation"].replace("_", " "), row["pos"], f"{row['sample_id_count']:,}"


def _scores(manifest: "pa.Table") -> Iterator[tuple[str, ...]]:
    pc = compute()
    meanings = {column.name: column.description for column in TableSchema.of(manifest.schema).columns}
    for name in _SCORES:
        values = manifest[name].filter(pc.is_finite(manifest[name])).drop_null()
        if len(values):
            quantiles = (f"{value:.3f}" for value in pc.quantile(values, [0.05, 0.5, 0.95]).to_pylist())
            yield f"`{name}`", f"{len(values):,}", *quantiles, meanings[name]


def _examples(rows: "pa.Table") -> Iterator[tuple[str, ...]]:
    for row in rows.to_pylist():
        texts = (in_words(row[name]) for name in ("caption", "edit_prompt"))
        words = f"{in_words(row['swapped_from'])} \u2192 {in_words(row['swapped_to'])}"
        urls = (in_words(row[name], longest=60) for name in ("url", "target_url"))
        yield row["sample_id"], row["split"], *texts, words, *urls


def _provenance(stages: Sequence[StageRecord]) -> Iterator[tuple[str, ...]]:
    for record in stages:
        model = f"`{record.weights_digest:.16}`" if record.weights_digest else ""
        config = in_words(json.dumps(_plain(record.config), sort_keys=True), longest=4000)
        yield record.stage, str(record.code_version), str(record.num_shards), model, f"`{record.digest:.16}`", config


def _columns() -> Iterator[tuple[str, ...]]:
    from tasks.stages import MANIFEST  # whoever only asks for a version need not load the stages

    for column in MANIFEST.columns:
        kind = f"{column.type}, may be null" if column.nullable else column.type
        values = f" One of {', '.join(f'`{value}`' for value in column.allowed)}." if column.allowed else ""
        stage = column.stage or "plan"
        yield f"`{column.name}`", stage, kind, column.unit, f"{column.description}{values}"


def _lines(rows: Iterator[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(value: Any) -> Any:
    """Return a canonical configuration without the names of its classes."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "@"}
    return [_plain(item) for item in value] if isinstance(value, list) else value
