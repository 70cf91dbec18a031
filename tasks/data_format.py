"""The documentation of the data format, written by the code that reads and writes it.

``python -m tasks.data_format`` prints the text of ``docs/data_format.md``; a test holds the file to it.
"""

import sys

from storage import SAMPLE_PARTS, FileEntry, ShardReport
from storage.reports import marker_path
from storage.tables import described
from tasks.stage import AnyStage
from tasks.stages import DATASET, all_tables

_FINGERPRINT = "0f3c9a7be1d25f48"
_TABLE = FileEntry(size=48123, sha256="a3" * 32)

_HEAD = """\
# Data format

Written by `python -m tasks.data_format`; a test compares. Everything lies under one root, a folder or any address
that fsspec knows. `file://` and `memory://` work as they are; `s3://` takes `pip install 'iedit[s3]'`, and other stores
the fsspec package that the error message names. Credentials and endpoints come from fsspec's own configuration
(`FSSPEC_S3_ENDPOINT_URL` and the like).

## Folders

| folder | holds |
|---|---|
"""

_SHARDS = """
## Shards

A stage writes each shard as files `<shard>.<16 hex of the file's sha256>.<suffix>` and one marker
`<shard>.done.json`, all in `<stage>/<fingerprint>/`.

- `parquet` is the stage's table, `dropped.parquet` lists the samples that ended here, `tar` holds images. Other
  suffixes are a stage's own.
- A file whose suffix begins with `log.` says how the work went and not what came out. Two runs with the same results
  may differ in it, so that it is part of no digest and no version.
- A shard is finished when its marker is there, as its `checksum` says, and every file that it lists is there with its
  size; one that changed after the marker is hashed, and every file is hashed before it is read. Files come first,
  the marker last, each by writing aside and renaming; a shard that is done anew switches with its marker. What no
  version needs is garbage (`iedit datasets gc`).
- Names under construction begin with a dot and end in `.partial`.
- The same content gives the same bytes: rows are sorted, parquet is written with zstd and page checksums, tars hold no
  time and no owner.

The fingerprint is 16 hex characters over the stage's name, its code version, its configuration, the digests of what it
reads and the digest of its weights. Settings that change only how fast are left out. So another setting is another
folder, and nothing is ever overwritten by something else.

A marker, here `{marker}`:

```json
{json}```

- `num_in == num_out + sum(dropped)`, always.
- `digest` is over the suffixes and sha256 of all files but logs; later fingerprints are made of it.
- `seconds` and `extra` are part of no digest.

## Versions

`versions/<id>/` holds three files, written once:

- `manifest.parquet`: one row per packed sample, see below.
- `shard_files.parquet`: one row per file of every stage that led here, logs excepted.
- `version.json`: the id, the digest of the input, for each stage its code version, configuration, weights digest,
  digest and line of the funnel, and every tar and table with size and sha256. No time is in it.

The id is 16 hex characters over the input's digest and the lineage: the same inputs give the same id and the same
bytes. A sub-version has a `parent` and a filter `where`; its manifest names tars of its parent. `README.md`,
where it is, is the card that `iedit datasets card` wrote.

## Tars

Plain USTAR in WebDataset's convention: the members of a sample stand together, in this order, named after its id.

| member | content |
|---|---|
{members}
Images are the bytes that the download stage stored, masks those of the mask stage: nothing is encoded anew. Masks
have the images' size, 255 = edit, 0 = leave. `json` repeats the manifest's columns that hold wherever the sample lies
(not `tar`, offsets, split, group or candidates), keys sorted. With the plain library:

```python
import webdataset

dataset = webdataset.WebDataset("pack/<fingerprint>/train-00000.<hash>.tar", shardshuffle=False).decode("pil")
for sample in dataset:
    sample["source.png"], sample["target.png"], sample["source_mask.png"], sample["target_mask.png"], sample["json"]
```

The tars of a version stand in its manifest (`tar`, `split`), and one sample is `tar_size` bytes at `tar_offset`.

# Tables

Parquet; `float16[n]` is a list of the fixed length n. Sorted by `sample_id` unless the table has none. Columns carry
their meaning and unit as metadata too.

"""

_MEMBERS = {
    "source": ("source.png", "source image: `png`, `jpg` or `webp`, as stored"),
    "target": ("target.png", "target image, likewise"),
    "source_mask": ("source_mask.png", "where to edit the source: PNG, 8 bit grey"),
    "target_mask": ("target_mask.png", "what was edited in the target: PNG, 8 bit grey"),
    "json": ("json", "texts, words, scores, hashes and addresses"),
}


def data_format(stages: tuple[AnyStage, ...] = DATASET) -> str:
    """Return the documentation of everything that these stages leave in a store, as Markdown."""
    folders = [f"| `{stage.name}/` | {stage.summary} |" for stage in stages]
    folders.append("| `versions/` | one folder per dataset version |")
    folders.append("| `takedowns.json` | hashes of what was purged: no plan names it again |")
    folders.append("| `outside/` | notes of galleries, cards and runs outside the root, for takedowns |")
    members = [f"| `<sample_id>.{_MEMBERS[part][0]}` | {_MEMBERS[part][1]} |\n" for part in SAMPLE_PARTS]
    tables = "\n".join(described(table) for table in all_tables(stages))
    text = _SHARDS.replace("{marker}", marker_path("caption", _FINGERPRINT, "00042"))
    text = text.replace("{json}", _example().to_json().decode()).replace("{members}", "".join(members))
    return _HEAD + "\n".join(folders) + "\n" + text + tables.replace("float16[512]", "float16[dim]")


def _example() -> ShardReport:
    return ShardReport(
        stage="caption",
        shard="00042",
        fingerprint=_FINGERPRINT,
        num_in=1000,
        num_out=998,
        dropped={"undecodable_image": 2},
        seconds=31.4,
        files={"parquet": _TABLE, "dropped.parquet": FileEntry(size=1904, sha256="5e" * 32)},
        extra={"num_halvings": 0},
    )


if __name__ == "__main__":
    sys.stdout.write(data_format())
