"""Every setting that gin can bind, as plain dataclasses. `gin_files` loads them; no setting is a module global."""
