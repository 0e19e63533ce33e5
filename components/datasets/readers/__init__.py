"""One module per form of annotation files, which has the name of the `format` and declares `READER`."""
