"""CSV, TSV, Arrow and Parquet: what the common properties of record files do not show."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written_records import blocks, everything, left_out, opened, packed, write

from tasks.sources.records.arrow_rows import row_sizes


def documents(path: Path, **options) -> list:
    return everything(opened(path, validation_share=0.0, **options))


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.csv", 'path,text\r\nm.py,"a,b\n""c""\r\nd"\r\nn.c,e\r\n'),
        ("a.csv", '\ufefftext;path\n"a,b\n""c""\r\nd";m.py\n\ne;n.c'),
        ("a.csv", '\ufeffsep=;\r\ntext;path\r\n"a,b\n""c""\r\nd";m.py\r\ne;n.c\r\n'),
        ("a.csv", '"sep=|"\npath|text\nm.py|"a,b\n""c""\r\nd"\nn.c|e\n'),
        ("a.csv", 'path,text\rm.py,"a,b\n""c""\r\nd"\rn.c,e'),
        ("a.tsv", 'text\tpath\n"a,b\n""c""\r\nd"\tm.py\ne\tn.c\n'),
        ("a.csv", 'path ,n,"text"\nm.py,"1","a,b\n""c""\r\nd"\nn.c,2,e\n'),
    ],
)
def test_fields_of_csv_may_contain_separators_quotes_and_line_ends(tmp_path: Path, name: str, text: str):
    write(tmp_path / name, text.encode())
    one, two = documents(tmp_path / name)
    assert (one.text, one.path, one.language) == ('a,b\n"c"\r\nd', "m.py", "Python")
    assert (two.text, two.path, two.language) == ("e", "n.c", "C")


def test_long_fields_of_csv_are_read_and_bytes_that_are_not_utf8_are_left_out(tmp_path: Path):
    long = "x" * 200_000
    write(tmp_path / "a.csv", f"text\n{long}\n".encode() + b"\xff\n\0\nend\n")
    assert [document.text for document in documents(tmp_path / "a.csv")] == [long, "end"]
    assert left_out(opened(tmp_path / "a.csv", validation_share=0.0)) == {"not_utf8": 1, "binary": 1}


def test_arrow_files_of_both_formats_are_read(tmp_path: Path):
    table = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode(), "n": [1, 2, 3], "lang": [None, "C", "C"]})
    for name, writer in (("a.arrow", pa.ipc.new_stream), ("b.arrow", pa.ipc.new_file), ("c.feather", pa.ipc.new_file)):
        options = pa.ipc.IpcWriteOptions(compression="zstd" if name == "c.feather" else None)
        with writer(str(tmp_path / name), table.schema, options=options) as output:
            output.write_table(table, max_chunksize=2)
        assert [(document.text, document.language) for document in documents(tmp_path / name)] == [
            ("a", ""),
            ("b", "C"),
            ("a", "C"),
        ]


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path):
    """datasets.Dataset.save_to_disk writes a stream of Arrow, and two files of JSON; DatasetDict a folder per split."""
    for split in ("train", "test"):
        for number in range(2):
            write(
                tmp_path / f"{split}/data-0000{number}-of-00002.arrow", packed("arrow", [{"text": f"{split} {number}"}])
            )
        write(tmp_path / f"{split}/dataset_info.json", b'{"features": {}}')
        write(tmp_path / f"{split}/state.json", b'{"_data_files": []}')
    write(tmp_path / "dataset_dict.json", b'{"splits": ["train", "test"]}')
    assert [document.text for document in documents(tmp_path / "train")] == ["train 0", "train 1"]


def test_rows_are_measured_as_decoded():
    rows = [
        {"text": "é", "tags": ["a", "bc"], "files": [{"content": "xyz", "n": 1}, {"content": None, "n": 2}]},
        {"text": None, "tags": None, "files": []},
        {"text": "x" * 1000, "tags": [], "files": None},
    ]
    table = pa.Table.from_pylist(rows)
    expected = [2 + 3 + 3 + 16, 0, 1000]
    for columns in (table, table.set_column(0, "text", table["text"].dictionary_encode())):
        (batch,) = columns.to_batches()
        assert row_sizes(batch).tolist() == expected
        assert row_sizes(batch.slice(1)).tolist() == expected[1:]


@pytest.mark.parametrize("rows", [1, 100, 5000])
def test_a_text_that_is_stored_once_counts_in_every_row(tmp_path: Path, rows: int):
    """Blocks have about the configured size, whatever the dictionary of the file saves."""
    text = "x = 1  # line\n" * 100
    for name, column in (
        ("plain", pa.array([text] * rows)),
        ("dictionary", pa.array([text] * rows).dictionary_encode()),
    ):
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet", row_group_size=rows)
        source = opened(tmp_path / f"{name}.parquet", validation_share=0.0, shuffle_bytes=10_000)
        sizes = [len(block.items) for block in blocks(source)]
        assert sum(sizes) == rows and max(sizes) <= 8


def test_memory_follows_the_decoded_rows(tmp_path: Path):
    """3 kB of Parquet that hold 200 MB of text."""
    text = "x = 1  # line\n" * 3600
    pq.write_table(pa.table({"text": [text] * 4000}), tmp_path / "a.parquet", row_group_size=4000)
    assert (tmp_path / "a.parquet").stat().st_size < 4000
    program = """if True:
        import resource, sys
        import pyarrow.parquet
        from tasks.sources.files import Found
        from tasks.sources.records.parquet import Parquet
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
        form = Parquet(Found("a", sys.argv[1], 0, ""), 1 << 20, lambda names, location: list(names))
        before = peak()
        print(sum(len(record.fields()["text"]) for record in form.read(0)), peak() - before)"""
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.parquet")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    characters, mebibytes = map(int, ran.stdout.split())
    assert characters == len(text) * 4000 and mebibytes < 60  # 200 MiB and more when a row group was decoded at once
