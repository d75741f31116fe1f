"""From a body to a `SongRequest`."""
