"""A picture in the Prefect page."""

from prefect.artifacts import create_markdown_artifact

from iedit_model.imaging.encode import data_url


def publish_picture(data: bytes, *, key: str, title: str, description: str) -> None:
    """Create an artifact that shows a picture; must be called inside a flow run.

    Args:
        data: a PNG or WebP file.
        key: of the artifact.
        title: what is said where the picture cannot be shown.
        description: what it shows.
    """
    url = data_url(data, "png" if data.startswith(b"\x89PNG") else "webp")
    create_markdown_artifact(key=key, markdown=f"![{title}]({url})\n", description=description)
