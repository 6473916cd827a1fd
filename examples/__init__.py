"""Programs that show the method; each says its command, what it shows and how long it takes."""
