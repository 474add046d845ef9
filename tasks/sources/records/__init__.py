"""Record files: JSON lines, Parquet and TFRecord, each record of which is a document or a dialogue."""
