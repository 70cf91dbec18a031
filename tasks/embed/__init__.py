"""Stage embed: CLIP embeddings of images, captions and edit prompts."""
