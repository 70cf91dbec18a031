"""The prose of a dataset card, and how untrusted words are put into it."""

import html
import re
from typing import Final

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
