"""One module per form of annotation files, named like the `format` of the data sets that it reads; each declares `READER`."""
