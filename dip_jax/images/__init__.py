"""Image files in and out; the only room that knows the image libraries."""
