"""Record files: JSON lines, Parquet and TFRecord. Each record is a document or a dialogue."""
