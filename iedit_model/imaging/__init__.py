"""Image bytes and files to arrays and back."""
