"""The licence of a document: from its record, its SPDX line, or the licence file of its repository."""

from pathlib import Path

from tasks.curation.clean import licences
from tasks.sources.base import Document


def test_the_licence_file_of_the_repository_or_a_folder_above_it_is_used(tmp_path: Path) -> None:
    for name, repository, text in [
        ("LICENSE.txt", "one", "Permission is hereby granted, free\n of charge, to any person obtaining a copy"),
        ("COPYING", "two/deep", "GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007\n"),
        ("LICENSE", "three", "You may look, but not touch."),
    ]:
        (tmp_path / repository).mkdir(parents=True)
        (tmp_path / repository / name).write_text(text)
    expected = {"one": "MIT", "two/deep": "GPL-3.0", "three": "", "one/vendor": "MIT", "": ""}
    roots = ["/nowhere", str(tmp_path)]
    for repository, licence in expected.items():
        assert licences.licence_of(Document("x = 1", "x.py", repository=repository), roots) == licence
    line = "# SPDX-License-Identifier: Apache-2.0 OR  MIT\n"
    assert licences.licence_of(Document(line, "x.py", repository="one"), roots) == "Apache-2.0 OR MIT"
    assert licences.licence_of(Document(line, "x.py", licence="ISC"), roots) == "ISC"
