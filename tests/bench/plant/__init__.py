"""A small plant to be tormented: numbered images, its processes, a disk that fills up, an independent ledger."""
