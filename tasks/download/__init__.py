"""Stage download: URLs to stored images, through an SSRF-safe HTTP client."""
