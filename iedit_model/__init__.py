"""The iEdit model in pure torch: tensors in, tensors out."""
