"""Stage index: one faiss index over all image embeddings."""
