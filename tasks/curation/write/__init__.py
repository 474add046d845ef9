"""Writing the training set: split, global shuffle, and TFRecord shards."""
